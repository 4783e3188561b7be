// One of two elements, by a condition that is not zero.
#include "element.cuh"

#define WHERE(CONDITION, C, NAME, T) \
    extern "C" __global__ void where_##CONDITION##_##NAME(size_t count, size_t rank, const size_t *info, const C *condition, \
                                                          const T *yes, const T *no, T *y) { \
        FOR_EACH(i, count) \
            y[i] = condition[place_of(i, rank, info, 0)] ? yes[place_of(i, rank, info, 1)] : no[place_of(i, rank, info, 2)]; \
    }

#define ALL(NAME, T) \
    WHERE(u8, uint8_t, NAME, T) \
    WHERE(u32, uint32_t, NAME, T) \
    WHERE(i64, int64_t, NAME, T)

ALL(f32, float)
ALL(f16, f16)
ALL(bf16, bf16)
ALL(u8, uint8_t)
ALL(u32, uint32_t)
ALL(i64, int64_t)
