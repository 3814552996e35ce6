// RGB bytes to what a network's first convolution reads: normalised, channels last, padded with channels of zeros.
//
//   out[b, y, x, c] = images[b, c, y, x] * scale[c] + offset[c] for c < 3, and 0 for the channels after them
//
// The paper's preprocessing, before its F of equation (1); scale = 1 / std and offset = -mean / std.
//
// Shapes     images (images, 3, height, width) uint8, any strides; scale, offset (3,) float32, finite; out (images, height, width,
//            CHANNELS) float32, float16 or bfloat16, dense.
// Numbers    one fmaf in float32, then rounded once to the output's type, to nearest even.
// Repeats    the same bits at every run: an output depends on one byte.
//
// Versions   a thread writes PIXELS neighbours, 16 bytes where a row holds a whole number of such groups, else one pixel. Padding to 4
//            or 8 channels gives the convolution aligned vectors, and a pass of its own nothing to do.
// Time       missing: no version has run on a GPU.
// Bound      memory: 3 bytes read and CHANNELS elements written a pixel.
//
// Macros     CHANNELS, 4 or 8; PIXELS; ELEMENT_FLOAT32, ELEMENT_FLOAT16 or ELEMENT_BFLOAT16, of the output; VECTOR 1.
#include "element.cuh"

constexpr int VALUES = PIXELS * CHANNELS;
constexpr int STORE = VALUES * sizeof(element) < 16 ? VALUES : 16 / sizeof(element);  // elements that one store moves

__device__ __forceinline__ element rounded(float x) {
#if defined(ELEMENT_FLOAT32)
    return x;
#elif defined(ELEMENT_BFLOAT16)
    const unsigned bits = __float_as_uint(x);
    return static_cast<element>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
#elif defined(CUDA_ON_CPU)
    return __half_as_ushort(__float2half_rn(x));
#else
    element bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#endif
}

extern "C" __global__ void __launch_bounds__(256) normalise_pixels(
    const unsigned char* __restrict__ images,  // (images, 3, height, width)
    long long image_stride, long long channel_stride, long long row_stride, long long pixel_stride,
    int height, int width,
    const float* __restrict__ scale, const float* __restrict__ offset,  // (3,)
    element* __restrict__ out) {                                        // (images, height, width, CHANNELS)
    const long long image = blockIdx.x / height, row = blockIdx.x % height;
    images += image * image_stride + row * row_stride;
    out += static_cast<long long>(blockIdx.x) * width * CHANNELS;
    const int groups = width / PIXELS;
    for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < groups; i += gridDim.y * blockDim.x) {
        Pack<element, STORE> values[VALUES / STORE] = {};
#pragma unroll
        for (int pixel = 0; pixel < PIXELS; pixel++)
#pragma unroll
            for (int c = 0; c < 3; c++) {
                const float byte = images[c * channel_stride + (static_cast<long long>(i) * PIXELS + pixel) * pixel_stride];
                const int at = pixel * CHANNELS + c;
                values[at / STORE].value[at % STORE] = rounded(fmaf(byte, scale[c], offset[c]));
            }
#pragma unroll
        for (int k = 0; k < VALUES / STORE; k++)
            *reinterpret_cast<Pack<element, STORE>*>(out + static_cast<long long>(i) * VALUES + k * STORE) = values[k];
    }
}
