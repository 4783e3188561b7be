// Operations and comparisons of two tensors of one shape.
#include "element.cuh"

#define BINARY(NAME, T, OUT, NARROW, EXPRESSION) \
    extern "C" __global__ void NAME(size_t count, size_t rank, const size_t *info, const T *left, const T *right, OUT *y) { \
        FOR_EACH(i, count) { \
            auto a = wide(left[place_of(i, rank, info, 0)]); \
            auto b = wide(right[place_of(i, rank, info, 1)]); \
            y[i] = NARROW(EXPRESSION); \
        } \
    }

#define ALL(NAME, T) \
    BINARY(badd_##NAME, T, T, narrow<T>, a + b) \
    BINARY(bsub_##NAME, T, T, narrow<T>, a - b) \
    BINARY(bmul_##NAME, T, T, narrow<T>, a * b) \
    BINARY(bdiv_##NAME, T, T, narrow<T>, a / b) \
    BINARY(bmaximum_##NAME, T, T, narrow<T>, a < b ? b : a) \
    BINARY(bminimum_##NAME, T, T, narrow<T>, a > b ? b : a) \
    BINARY(eq_##NAME, T, uint8_t, uint8_t, a == b) \
    BINARY(ne_##NAME, T, uint8_t, uint8_t, a != b) \
    BINARY(lt_##NAME, T, uint8_t, uint8_t, a < b) \
    BINARY(le_##NAME, T, uint8_t, uint8_t, a <= b) \
    BINARY(gt_##NAME, T, uint8_t, uint8_t, a > b) \
    BINARY(ge_##NAME, T, uint8_t, uint8_t, a >= b)

ALL(f32, float)
ALL(f16, f16)
ALL(bf16, bf16)
ALL(u8, uint8_t)
ALL(u32, uint32_t)
ALL(i64, int64_t)
