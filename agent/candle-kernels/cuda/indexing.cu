// Rows and elements by numbers. A tensor is [left][numbers][right] here, and its source [left][size][right]. The highest
// number of a type stands for nothing and gives zeros. Any other number beyond the source is a fault of the caller.
#include "element.cuh"

template <class I> __device__ inline bool is_nothing(I id) {
    return id == (I(-1) < I(0) ? I((uint64_t(1) << (8 * sizeof(I) - 1)) - 1) : I(-1));
}

template <class I> __device__ inline size_t checked(I id, size_t size) {
    if (size_t(id) >= size) __trap();
    return size_t(id);
}

#define SELECT(INDEX, I, NAME, T) \
    extern "C" __global__ void is_##INDEX##_##NAME(size_t count, size_t rank, const size_t *info, const I *ids, const T *x, \
                                                   T *y, size_t left, size_t size, size_t numbers, size_t right) { \
        FOR_EACH(i, count) { \
            size_t column = i % right, number = i / right % numbers, row = i / right / numbers; \
            I id = ids[place_of(number, rank, info, 0)]; \
            y[i] = is_nothing(id) ? narrow<T>(0) : x[(row * size + checked(id, size)) * right + column]; \
        } \
    } \
    extern "C" __global__ void gather_##INDEX##_##NAME(size_t count, const I *ids, const T *x, T *y, size_t left, \
                                                       size_t size, size_t numbers, size_t right) { \
        FOR_EACH(i, count) { \
            size_t column = i % right, row = i / right / numbers; \
            I id = ids[i]; \
            y[i] = is_nothing(id) ? narrow<T>(0) : x[(row * size + checked(id, size)) * right + column]; \
        } \
    }

#define ALL(NAME, T) \
    SELECT(u8, uint8_t, NAME, T) \
    SELECT(u32, uint32_t, NAME, T) \
    SELECT(i64, int64_t, NAME, T)

ALL(f32, float)
ALL(f16, f16)
ALL(bf16, bf16)
ALL(u8, uint8_t)
ALL(u32, uint32_t)
ALL(i64, int64_t)
