// CUDA's built-in vector types, with the alignment that they have on the device.
#pragma once

struct dim3 {
    unsigned x, y, z;
};
struct uint3 {
    unsigned x, y, z;
};

#define CUDA_ON_CPU_VECTORS(T, name)        \
    struct alignas(2 * sizeof(T)) name##2 { \
        T x, y;                             \
    };                                      \
    struct alignas(4 * sizeof(T)) name##4 { \
        T x, y, z, w;                       \
    };                                      \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

CUDA_ON_CPU_VECTORS(float, float)
CUDA_ON_CPU_VECTORS(int, int)
CUDA_ON_CPU_VECTORS(unsigned, uint)
CUDA_ON_CPU_VECTORS(unsigned short, ushort)
