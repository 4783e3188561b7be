// One value everywhere, and copies of rows.
#include "element.cuh"

#define FILL(NAME, T) \
    extern "C" __global__ void const_set_##NAME(size_t count, size_t rank, const size_t *info, T value, T *y) { \
        FOR_EACH(i, count) y[place_of(i, rank, info, 0)] = value; \
    } \
    extern "C" __global__ void copy2d_##NAME(const T *x, T *y, uint32_t rows, uint32_t columns, uint32_t from, uint32_t to) { \
        FOR_EACH(i, size_t(rows) * columns) { \
            size_t row = i / columns, column = i % columns; \
            y[row * to + column] = x[row * from + column]; \
        } \
    }

FILL(f32, float)
FILL(f16, f16)
FILL(bf16, bf16)
FILL(u8, uint8_t)
FILL(u32, uint32_t)
FILL(i16, int16_t)
FILL(i32, int32_t)
FILL(i64, int64_t)
