// y = x * scale + shift
#include "element.cuh"

#define AFFINE(NAME, T) \
    extern "C" __global__ void affine_##NAME(size_t count, size_t rank, const size_t *info, const T *x, T *y, T scale, T shift) { \
        FOR_EACH(i, count) y[i] = narrow<T>(wide(x[place_of(i, rank, info, 0)]) * wide(scale) + wide(shift)); \
    }

AFFINE(f32, float)
AFFINE(f16, f16)
AFFINE(bf16, bf16)
AFFINE(u8, uint8_t)
AFFINE(u32, uint32_t)
AFFINE(i64, int64_t)
