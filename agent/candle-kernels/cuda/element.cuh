// Numbers of tensors, and the places of their elements.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

using bf16 = __nv_bfloat16;
using f16 = __half;

// Reads a number as the type that sums and functions are computed in: f32 for the short floats, otherwise its own.
template <class T> struct Wide {
    using Type = T;
    static __device__ T of(T x) { return x; }
    static __device__ T back(T x) { return x; }
};
template <> struct Wide<bf16> {
    using Type = float;
    static __device__ float of(bf16 x) { return __bfloat162float(x); }
    static __device__ bf16 back(float x) { return __float2bfloat16_rn(x); }
};
template <> struct Wide<f16> {
    using Type = float;
    static __device__ float of(f16 x) { return __half2float(x); }
    static __device__ f16 back(float x) { return __float2half_rn(x); }
};

template <class T> __device__ typename Wide<T>::Type wide(T x) { return Wide<T>::of(x); }
template <class T> __device__ T narrow(typename Wide<T>::Type x) { return Wide<T>::back(x); }

// Returns the place of element `i` of a tensor of `rank` dimensions, which are given with their strides.
__device__ inline size_t place(size_t i, size_t rank, const size_t *dims, const size_t *strides) {
    size_t at = 0;
#pragma unroll 1
    for (size_t d = rank; d-- > 0;) {
        at += i % dims[d] * strides[d];
        i /= dims[d];
    }
    return at;
}

// Returns the place of element `i`. `info` holds the dimensions and then the strides of one tensor after the other, of which
// this is number `which`. It is null if all of them are contiguous.
__device__ inline size_t place_of(size_t i, size_t rank, const size_t *info, size_t which) {
    return info ? place(i, rank, info, info + rank * (1 + which)) : i;
}

// The elements of a thread: from its own number on, by the number of threads.
// The compiler is told not to unroll: these loops run once in most launches, and the text stays short.
#define FOR_EACH(i, count) \
    _Pragma("unroll 1") for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < (count); i += size_t(gridDim.x) * blockDim.x)
