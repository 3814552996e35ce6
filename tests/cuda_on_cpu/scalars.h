// Scalar functions of the device, and the 16-bit floating point types with round-to-nearest-even conversions.
#pragma once

template <class To, class From>
static inline To cuda_on_cpu_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

template <class T>
static inline T __ldg(const T* address) { return *address; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline int __float_as_int(float x) { return cuda_on_cpu_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return cuda_on_cpu_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return cuda_on_cpu_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return cuda_on_cpu_bits<float>(x); }

struct __half {
    unsigned short bits;
};
struct __nv_bfloat16 {
    unsigned short bits;
};

static inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
static inline unsigned short __half_as_ushort(__half x) { return x.bits; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }

static inline float __half2float(__half x) {
    const unsigned sign = (x.bits & 0x8000u) << 16, exponent = (x.bits >> 10) & 0x1f, fraction = x.bits & 0x3ff;
    if (exponent == 0) return __uint_as_float(sign | __float_as_uint(ldexpf(float(fraction), -24)));  // zero and subnormals
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
}

static inline __half __float2half_rn(float x) {
    const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {(unsigned short)0x7fff};                  // NaN
    if (magnitude >= 0x477ff000u) return {(unsigned short)(sign | 0x7c00u)};       // 65520 and more round to infinity
    if (magnitude < 0x38800000u) {                                                 // below 2^-14: steps of 2^-24
        const float steps = ldexpf(__uint_as_float(magnitude), 24);
        return {(unsigned short)(sign | unsigned(nearbyintf(steps)))};
    }
    const unsigned rounded = magnitude + 0xfffu + (magnitude >> 13 & 1);
    return {(unsigned short)(sign | ((rounded >> 13) - (112u << 10)))};
}

static inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(unsigned(x.bits) << 16); }

static inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    const unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {(unsigned short)0x7fff};
    return {(unsigned short)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}
