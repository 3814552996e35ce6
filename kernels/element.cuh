// Element types of the descriptors and the loads that bring them in.
//
// Macros: ELEMENT_FLOAT32, ELEMENT_FLOAT16 or ELEMENT_BFLOAT16; VECTOR, the elements of one load (16 bytes' worth, or 1).
// 16-bit elements travel as their bits and widen to float32 exactly, without cuda_fp16.h and cuda_bf16.h: NVRTC comes without headers.
#pragma once

#if defined(ELEMENT_FLOAT32)
typedef float element;
#else
typedef unsigned short element;
#endif

__device__ __forceinline__ float to_float(float x) { return x; }

#if !defined(ELEMENT_FLOAT32)
__device__ __forceinline__ float to_float(unsigned short bits) {
#if defined(ELEMENT_BFLOAT16)
    return __uint_as_float(static_cast<unsigned>(bits) << 16);
#elif defined(CUDA_ON_CPU)
    return __half2float(__ushort_as_half(bits));
#else
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
#endif
}
#endif

// COUNT consecutive values, aligned so that one instruction moves them.
template <class T, int COUNT>
struct __align__(sizeof(T) * COUNT) Pack {
    T value[COUNT];
};

// VECTOR elements as one load brings them. Eight 16-bit elements stay in four registers until component() takes one out: as an array
// of shorts they would be taken apart at the load and take eight.
#if defined(ELEMENT_FLOAT32)
typedef Pack<float, VECTOR> Vector;
__device__ __forceinline__ float component(const Vector& vector, int j) { return vector.value[j]; }
#else
template <int COUNT>
struct Halves {
    typedef Pack<unsigned, COUNT / 2> type;
};
template <>
struct Halves<1> {
    typedef Pack<unsigned short, 1> type;
};
typedef Halves<VECTOR>::type Vector;
__device__ __forceinline__ float component(const Vector& vector, int j) {
    return to_float(static_cast<unsigned short>(vector.value[j / 2] >> j % 2 * 16));
}
#endif

// The value at p, or zeros where the caller found p out of range.
template <class T>
__device__ __forceinline__ T load_if(bool inside, const void* p) {
    if (inside) return *static_cast<const T*>(p);
    return T{};
}

// COUNT floats at p, which lie so that 16-byte accesses may move them where COUNT is a multiple of 4.
template <int COUNT>
struct Floats {
    typedef Pack<float, COUNT % 4 ? 1 : 4> Part;
    static constexpr int PART = COUNT % 4 ? 1 : 4;
    float value[COUNT];

    __device__ __forceinline__ void load(const float* p) {
#pragma unroll
        for (int i = 0; i < COUNT; i += PART) {
            const Part part = *reinterpret_cast<const Part*>(p + i);
#pragma unroll
            for (int j = 0; j < PART; j++) value[i + j] = part.value[j];
        }
    }
    __device__ __forceinline__ void store(float* p) const {
#pragma unroll
        for (int i = 0; i < COUNT; i += PART) {
            Part part;
#pragma unroll
            for (int j = 0; j < PART; j++) part.value[j] = value[i + j];
            *reinterpret_cast<Part*>(p + i) = part;
        }
    }
};

constexpr unsigned ALL_LANES = 0xffffffffu;
