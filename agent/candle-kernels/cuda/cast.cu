// Conversions between types. A float becomes an integer by cutting its fraction off.
#include "element.cuh"

#define CAST(FROM, S, TO, D) \
    extern "C" __global__ void cast_##FROM##_##TO(size_t count, size_t rank, const size_t *info, const S *x, D *y) { \
        FOR_EACH(i, count) y[i] = narrow<D>(static_cast<Wide<D>::Type>(wide(x[place_of(i, rank, info, 0)]))); \
    }

#define ALL(FROM, S) \
    CAST(FROM, S, f32, float) \
    CAST(FROM, S, f16, f16) \
    CAST(FROM, S, bf16, bf16) \
    CAST(FROM, S, u8, uint8_t) \
    CAST(FROM, S, u32, uint32_t) \
    CAST(FROM, S, i64, int64_t)

ALL(f32, float)
ALL(f16, f16)
ALL(bf16, bf16)
ALL(u8, uint8_t)
ALL(u32, uint32_t)
ALL(i64, int64_t)
