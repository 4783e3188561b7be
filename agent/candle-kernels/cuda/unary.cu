// Functions of one tensor, and copies out of strided ones.
#include "element.cuh"

#define UNARY(NAME, T, EXPRESSION) \
    extern "C" __global__ void NAME(size_t count, size_t rank, const size_t *info, const T *x, T *y) { \
        FOR_EACH(i, count) { \
            auto v = wide(x[place_of(i, rank, info, 0)]); \
            y[i] = narrow<T>(EXPRESSION); \
        } \
    }

#define UNARY_WITH(NAME, T, EXPRESSION) \
    extern "C" __global__ void NAME(size_t count, size_t rank, const size_t *info, T parameter, const T *x, T *y) { \
        auto p = wide(parameter); \
        FOR_EACH(i, count) { \
            auto v = wide(x[place_of(i, rank, info, 0)]); \
            y[i] = narrow<T>(EXPRESSION); \
        } \
    }

// Approximation by tanh, with sqrt(2 / pi).
template <class W> __device__ W gelu(W v) {
    return W(0.5) * v * (W(1) + tanh(W(0.79788456080286535588) * v * (W(1) + W(0.044715) * v * v)));
}
// With 1 / sqrt(2).
template <class W> __device__ W gelu_erf(W v) { return W(0.5) * v * (W(1) + erf(v * W(0.70710678118654752440))); }

#define FLOATS(NAME, T) \
    UNARY(uexp_##NAME, T, exp(v)) \
    UNARY(ulog_##NAME, T, log(v)) \
    UNARY(usin_##NAME, T, sin(v)) \
    UNARY(ucos_##NAME, T, cos(v)) \
    UNARY(utanh_##NAME, T, tanh(v)) \
    UNARY(uneg_##NAME, T, -v) \
    UNARY(urecip_##NAME, T, 1 / v) \
    UNARY(usqr_##NAME, T, v * v) \
    UNARY(usqrt_##NAME, T, sqrt(v)) \
    UNARY(ugelu_##NAME, T, gelu(v)) \
    UNARY(ugelu_erf_##NAME, T, gelu_erf(v)) \
    UNARY(uerf_##NAME, T, erf(v)) \
    UNARY(usilu_##NAME, T, v / (1 + exp(-v))) \
    UNARY(uabs_##NAME, T, fabs(v)) \
    UNARY(uceil_##NAME, T, ceil(v)) \
    UNARY(ufloor_##NAME, T, floor(v)) \
    UNARY(uround_##NAME, T, round(v)) \
    UNARY(urelu_##NAME, T, v > 0 ? v : v * 0) \
    UNARY(usign_##NAME, T, (v > 0) - (v < 0)) \
    UNARY_WITH(upowf_##NAME, T, pow(v, p)) \
    UNARY_WITH(uelu_##NAME, T, v > 0 ? v : p * (exp(v) - 1))

#define COPY(NAME, T) \
    extern "C" __global__ void ucopy_##NAME(size_t count, size_t rank, const size_t *info, const T *x, T *y) { \
        FOR_EACH(i, count) y[i] = x[place_of(i, rank, info, 0)]; \
    }

FLOATS(f32, float)
FLOATS(f16, f16)
FLOATS(bf16, bf16)
COPY(f32, float)
COPY(f16, f16)
COPY(bf16, bf16)
COPY(u8, uint8_t)
COPY(u32, uint32_t)
COPY(i16, int16_t)
COPY(i32, int32_t)
COPY(i64, int64_t)
