// Nearest centre and VLAD of each image in one launch: a descriptor's label never leaves shared memory.
//
//   label[b, p] = argmin_j (|c_j|^2 / 2 - x_bp.c_j)
//   V[b, j]     = sum over patches p with label j of (x_bp - c_j), then mass, intra, signed sqrt and L2, each only where asked for
//
// The paper's equation (1), NN(f_i) included. What nearest_center.cu and vlad.cu compute, by the same device functions in the same
// order, hence the same bits as the two launches one after the other (with the same METHOD). One block owns an image. Descriptors come
// from memory once, for the labels, and from the L2 cache a second time, for the sums.
//
// Shapes     descriptors (images, patches, dims) float32, float16 or bfloat16, any image and row stride; centers (center_count, dims)
//            float32, or the descriptors' type with METHOD_MMA; half_norms (center_count,) float32; out (images, center_count * dims)
//            float32; skipped (images,) int32: the invalid descriptors of each image.
// Ties       the lowest index.
// Invalid    a descriptor whose scores are not all finite in float32 is passed over and counted in `skipped`.
// Numbers    as nearest_center.cu and vlad.cu say.
// Repeats    the same bits at every run. Atomics only on integers, and only where their order cannot show.
//
// Versions   METHOD_TILED and METHOD_MMA with tiles of 64 centres, values staged in shared memory.
// Time       missing: no version has run on a GPU.
// Bound      modelled, at 196 patches, 64 dimensions, 64 centres: 50 kB read (float32), 16 kB written, 1.6 MFLOP an image. In float32 the
//            products are the limit, with 16-bit descriptors memory is.
// Ideas      descriptors kept in shared memory between the two halves (50 kB at float32) instead of a second read through L2.
//
// Macros     METHOD_TILED or METHOD_MMA; STAGED 1; TILE_CENTERS 64; those of element.cuh.
#include "element.cuh"
#include "argmin.cuh"
#if defined(METHOD_TILED)
#include "tiled.cuh"
#else
#include "mma.cuh"
#endif
#include "aggregate.cuh"

constexpr int CHUNK = 256;  // one tile of mma, two of tiled: with more, what the loop keeps alive spills beside the accumulators

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) assign_vlad(
    const element* __restrict__ descriptors,  // (images, patches, dims)
    long long image_stride, long long row_stride, int patches, int dims,
    const center_element* __restrict__ centers,  // (center_count, dims)
    const float* __restrict__ half_norms,        // (center_count,)
    int center_count, int group, int steps,
    float* __restrict__ out,      // (images, center_count, dims)
    int* __restrict__ skipped) {  // (images,) or null
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    const long long image = blockIdx.x;
    descriptors += image * image_stride;
    out += image * center_count * dims;

    Carver carver = {shared_bytes};
    Tiles& tiles = *carver.take<Tiles>(1);
    Aggregation a = carve(carver, center_count, center_count, dims, CHUNK, out);
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
    write_values(a.values, out, static_cast<long long>(center_count) * dims, scaled, scaled ? image_scale(a.squares, center_count) : 1.0);
    if (skipped && threadIdx.x == 0) skipped[image] = *invalid;
}
