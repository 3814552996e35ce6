// Maximum of each 2 x 2 square of pixels, channel by channel: the poolings of VGG-16.
//
//   out[b, y, x, c] = max of x[b, 2 y + i, 2 x + j, c], i, j = 0, 1
//
// The paper's F, equation (1): features of a layer behind poolings.
//
// Shapes     pixels (images, height, width, channels) float32, float16 or bfloat16, channels contiguous, any stride before them; out
//            (images, height / 2, width / 2, channels), dense. An odd last row or column is left out.
// Ties       the first, in order of rows; they show only in the sign of zero.
// Invalid    NaN, where one of the four is.
// Numbers    exact: the bits of one of the four. Subnormal float32 and bfloat16 values compare as zero (CuPy compiles with -ftz=true).
// Repeats    the same bits at every run: an output depends on its four inputs.
//
// Versions   a thread takes VECTOR channels: four loads and one store, of 16 bytes where strides allow. No indices are written, as
//            torch's pooling writes them in 64 bits an output: four times the bytes of a bfloat16 output itself.
// Time       missing: no version has run on a GPU.
// Bound      memory: 4 elements read and 1 written an output.
//
// Macros     those of element.cuh.
#include "element.cuh"

__device__ __forceinline__ bool replaces(float best, float other) { return other > best || other != other; }

// Element j of a vector as it lies in memory.
__device__ __forceinline__ element stored(const Vector& vector, int j) {
#if defined(ELEMENT_FLOAT32)
    return vector.value[j];
#else
    return static_cast<element>(vector.value[j / 2] >> j % 2 * 16);
#endif
}

__device__ __forceinline__ Vector larger(const Vector& best, const Vector& other) {
    Vector result = {};
#pragma unroll
    for (int j = 0; j < VECTOR; j++) {
        const element chosen = stored(replaces(component(best, j), component(other, j)) ? other : best, j);
#if defined(ELEMENT_FLOAT32)
        result.value[j] = chosen;
#else
        result.value[j / 2] |= static_cast<unsigned>(chosen) << j % 2 * 16;
#endif
    }
    return result;
}

extern "C" __global__ void __launch_bounds__(256) max_pool(
    const element* __restrict__ pixels,  // (images, height, width, channels)
    long long image_stride, long long row_stride, long long pixel_stride,
    int out_height, int out_width, int channels,
    element* __restrict__ out) {  // (images, out_height, out_width, channels)
    const long long image = blockIdx.x / out_height, row = blockIdx.x % out_height;
    const element* const square_row = pixels + image * image_stride + 2 * row * row_stride;
    const int vectors = channels / VECTOR, count = out_width * vectors;
    out += static_cast<long long>(blockIdx.x) * out_width * channels;
    for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < count; i += gridDim.y * blockDim.x) {
        const element* const first = square_row + 2LL * (i / vectors) * pixel_stride + i % vectors * VECTOR;
        Vector square[4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            square[k] = *reinterpret_cast<const Vector*>(first + k / 2 * row_stride + k % 2 * pixel_stride);
        Vector best = square[0];
#pragma unroll
        for (int k = 1; k < 4; k++) best = larger(best, square[k]);
        *reinterpret_cast<Vector*>(out + static_cast<long long>(i) * VECTOR) = best;
    }
}
