// Nearest centre and VLAD of each image and layer in one launch: a descriptor's label never leaves shared memory.
//
//   label[b, p] = argmin_j (|c_j|^2 / 2 - x_bp.c_j)
//   V[b, j]     = sum over patches p with label j of (x_bp - c_j), then mass, intra, signed sqrt and L2, each only where asked for
//
// The paper's equation (1), NN(f_i) included. What nearest_center.cu and vlad.cu compute, by the same device functions in the same
// order, hence the same bits as the two launches one after the other (with the same METHOD). One block owns an image's descriptors of one
// layer, whose codebook and vector are its own. Descriptors come from memory once, for the labels, and from the L2 cache a second time,
// for the sums.
//
// Shapes     descriptors (images, patches, layers * dims) float32, float16 or bfloat16, any image and row stride; centers (layers,
//            center_count, dims) float32, or the descriptors' type with METHOD_MMA; half_norms (layers, center_count) float32; out
//            (images, layers * center_count * dims) float32; skipped (images, layers) int32: the invalid descriptors of each. The layers
//            are the grid's y.
// SPLIT=1    out is (2, images, layers * center_count * dims) bfloat16: of each value what bfloat16 holds of it, and what it holds of
//            the rest, 2^-17 of the value and less at fault. A product on tensor cores takes them as they are.
// Ties       the lowest index.
// Invalid    a descriptor whose scores are not all finite in float32 is passed over and counted in `skipped`.
// Numbers    as nearest_center.cu and vlad.cu say.
// Repeats    the same bits at every run. Atomics only on integers, and only where their order cannot show.
//
// Versions   METHOD_TILED with tiles of 32 or 64 centres and METHOD_MMA of 64, values staged in shared memory.
// Time       missing: no version has run on a GPU.
// Bound      modelled, at 196 patches, 64 dimensions, 64 centres: 50 kB read (float32), 16 kB written, 1.6 MFLOP an image. In float32 the
//            products are the limit, with 16-bit descriptors memory is.
// Ideas      descriptors kept in shared memory between the two halves (50 kB at float32) instead of a second read through L2.
//
// Macros     METHOD_TILED or METHOD_MMA; STAGED 1; SPLIT 0 or 1; TILE_CENTERS 32 or 64; those of element.cuh.
#include "element.cuh"
#include "argmin.cuh"
#if defined(METHOD_TILED)
#include "tiled.cuh"
#else
#include "mma.cuh"
#endif
#include "aggregate.cuh"

constexpr int CHUNK = 256;  // one tile of mma, two of tiled: with more, what the loop keeps alive spills beside the accumulators

#if SPLIT
typedef unsigned short out_element;

// The bits of x rounded to bfloat16, to nearest even.
__device__ __forceinline__ unsigned short bfloat16_bits(float x) {
    const unsigned bits = __float_as_uint(x);
    return static_cast<unsigned short>(x == x ? (bits + 0x7fffu + (bits >> 16 & 1)) >> 16 : 0x7fc0);
}

// As write_values, in two parts that lie `apart` elements from each other.
__device__ __forceinline__ void write_parts(
    const float* values, unsigned short* out, long long apart, long long count, bool scaled, double scale) {
    typedef Pack<unsigned short, OUT_VECTOR> Bits;
    for (long long i = static_cast<long long>(threadIdx.x) * OUT_VECTOR; i < count; i += static_cast<long long>(blockDim.x) * OUT_VECTOR) {
        Floats<OUT_VECTOR> v;
        v.load(values + i);
        Bits high, low;
#pragma unroll
        for (int j = 0; j < OUT_VECTOR; j++) {
            const float x = scaled ? static_cast<float>(v.value[j] * scale) : v.value[j];
            high.value[j] = bfloat16_bits(x);
            low.value[j] = bfloat16_bits(x - __uint_as_float(static_cast<unsigned>(high.value[j]) << 16));
        }
        *reinterpret_cast<Bits*>(out + i) = high;
        *reinterpret_cast<Bits*>(out + apart + i) = low;
    }
}
#else
typedef float out_element;
#endif

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) assign_vlad(
    const element* __restrict__ descriptors,  // (images, patches, layers, dims)
    long long image_stride, long long row_stride, int patches, int dims,
    const center_element* __restrict__ centers,  // (layers, center_count, dims)
    const float* __restrict__ half_norms,        // (layers, center_count)
    int center_count, int group, int steps,
    out_element* __restrict__ out,  // (images, layers, center_count, dims), or two of them
    int* __restrict__ skipped) {    // (images, layers) or null
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    const long long layer = blockIdx.y, vector = static_cast<long long>(blockIdx.x) * gridDim.y + layer;
    const long long length = static_cast<long long>(center_count) * dims;
    descriptors += blockIdx.x * image_stride + layer * dims;
    centers += layer * length;
    half_norms += layer * center_count;
    out += vector * length;

    Carver carver = {shared_bytes};
    Tiles& tiles = *carver.take<Tiles>(1);
    Aggregation a = carve(carver, center_count, center_count, dims, CHUNK, nullptr);
    int* const invalid = carver.take<int>(1);
    if (threadIdx.x == 0) *invalid = 0;

    int start = 0;
    do {  // once even without patches: the values must become zeros
        const int here = min(CHUNK, patches - start);
        clear_bitmap(a);
        __syncthreads();
        for (int row0 = 0; row0 < CHUNK && row0 < here; row0 += TILE_ROWS) {
            const int rows_here = min(TILE_ROWS, here - row0);
            Nearest nearest;
            float squared_norm;
            const int row = nearest_of_tile(
                tiles, descriptors + (start + row0) * row_stride, row_stride, rows_here, dims, centers, half_norms, center_count, false,
                nearest, squared_norm);
            if (0 <= row && row < rows_here) {
                const int label = index_or_invalid(nearest);
                mark_patch(a, row0 + row, label);
                if (label < 0) atomicAdd(invalid, 1);
            }
        }
        __syncthreads();
        sort_patches(a, here, start == 0);
        add_patches(a, descriptors + start * row_stride, row_stride, start == 0, group);
        start += CHUNK;
    } while (start < patches);

    finish_centers(a, centers, group, steps);
    __syncthreads();
    const bool scaled = steps & L2;
    const double scale = scaled ? image_scale(a.squares, center_count) : 1.0;
#if SPLIT
    write_parts(a.values, out, static_cast<long long>(gridDim.x) * gridDim.y * length, length, scaled, scale);
#else
    write_values(a.values, out, length, scaled, scale);
#endif
    if (skipped && threadIdx.x == 0) skipped[vector] = *invalid;
}
