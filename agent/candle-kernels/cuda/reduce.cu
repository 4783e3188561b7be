// Sums, extremes and their places over the last dimensions. A block has one result, and its threads join their parts in a
// tree, so the order of a sum depends on the sizes only.
#include "element.cuh"

constexpr int MAX_THREADS = 1024;

template <class W> struct Sum {
    static __device__ W join(W a, W b) { return a + b; }
};
template <class W> struct Min {
    static __device__ W join(W a, W b) { return b < a ? b : a; }
};
template <class W> struct Max {
    static __device__ W join(W a, W b) { return b > a ? b : a; }
};

template <class T, template <class> class Op>
__device__ void reduce(size_t per_block, size_t rank, const size_t *info, const T *x, T *y) {
    using W = typename Wide<T>::Type;
    __shared__ W parts[MAX_THREADS];
    size_t first = blockIdx.x * per_block;
    // Threads beyond the elements repeat the first one, which is no sum: those begin with nothing.
    bool has = threadIdx.x < per_block;
    W all = has ? wide(x[place_of(first + threadIdx.x, rank, info, 0)]) : W(0);
#pragma unroll 1
    for (size_t i = threadIdx.x + blockDim.x; i < per_block; i += blockDim.x)
        all = Op<W>::join(all, wide(x[place_of(first + i, rank, info, 0)]));
    parts[threadIdx.x] = all;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half && threadIdx.x + half < per_block)
            parts[threadIdx.x] = Op<W>::join(parts[threadIdx.x], parts[threadIdx.x + half]);
    }
    if (threadIdx.x == 0) y[blockIdx.x] = narrow<T>(parts[0]);
}

// The first of equal elements wins.
template <class T, bool IS_MAX>
__device__ void find(size_t per_block, size_t rank, const size_t *info, const T *x, uint32_t *y) {
    using W = typename Wide<T>::Type;
    __shared__ W values[MAX_THREADS];
    __shared__ uint32_t places[MAX_THREADS];
    size_t first = blockIdx.x * per_block;
    auto beats = [](W a, uint32_t at, W b, uint32_t bt) { return (IS_MAX ? a > b : a < b) || (a == b && at < bt); };
    W best = W(0);
    uint32_t where = UINT32_MAX;
#pragma unroll 1
    for (size_t i = threadIdx.x; i < per_block; i += blockDim.x) {
        W value = wide(x[place_of(first + i, rank, info, 0)]);
        if (where == UINT32_MAX || beats(value, i, best, where)) best = value, where = i;
    }
    values[threadIdx.x] = best;
    places[threadIdx.x] = where;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        unsigned other = threadIdx.x + half;
        if (threadIdx.x < half && other < per_block && beats(values[other], places[other], values[threadIdx.x], places[threadIdx.x]))
            values[threadIdx.x] = values[other], places[threadIdx.x] = places[other];
    }
    if (threadIdx.x == 0) y[blockIdx.x] = places[0];
}

#define REDUCE(NAME, T) \
    extern "C" __global__ void fast_sum_##NAME(size_t, size_t per, size_t rank, const size_t *info, const T *x, T *y) { \
        reduce<T, Sum>(per, rank, info, x, y); \
    } \
    extern "C" __global__ void fast_min_##NAME(size_t, size_t per, size_t rank, const size_t *info, const T *x, T *y) { \
        reduce<T, Min>(per, rank, info, x, y); \
    } \
    extern "C" __global__ void fast_max_##NAME(size_t, size_t per, size_t rank, const size_t *info, const T *x, T *y) { \
        reduce<T, Max>(per, rank, info, x, y); \
    } \
    extern "C" __global__ void fast_argmin_##NAME(size_t, size_t per, size_t rank, const size_t *info, const T *x, uint32_t *y) { \
        find<T, false>(per, rank, info, x, y); \
    } \
    extern "C" __global__ void fast_argmax_##NAME(size_t, size_t per, size_t rank, const size_t *info, const T *x, uint32_t *y) { \
        find<T, true>(per, rank, info, x, y); \
    } \
    /* A thread for each result, for sums of few elements. */ \
    extern "C" __global__ void fast_sum_small_##NAME(size_t count, size_t per, size_t rank, const size_t *info, const T *x, T *y) { \
        FOR_EACH(i, count) { \
            Wide<T>::Type sum = 0; \
            _Pragma("unroll 1") for (size_t k = 0; k < per; k++) sum += wide(x[place_of(i * per + k, rank, info, 0)]); \
            y[i] = narrow<T>(sum); \
        } \
    }

REDUCE(f32, float)
REDUCE(f16, f16)
REDUCE(bf16, bf16)
REDUCE(u8, uint8_t)
REDUCE(u32, uint32_t)
REDUCE(i64, int64_t)
