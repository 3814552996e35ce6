// VLAD of each image from given labels, with the chain of normalisations.
//
//   V[b, j] = sum over patches p with label j of (x_bp - c_j) = (sum of x_bp) - count_j * c_j
//
// The paper's equation (1). Then, each step only where asked for, in VLFeat's order:
//
//   mass         V[b, j] /= count_j
//   intra        V[b, j] /= |V[b, j]|
//   signed sqrt  v = sign(v) * sqrt(|v|)
//   L2           V[b] /= |V[b]|
//
// Empty centres and vectors of norm zero stay zero.
//
// Shapes     descriptors (images, patches, dims) float32, float16 or bfloat16, any image and row stride; labels (images, patches) int32,
//            any image stride; centers (center_count, dims) float32; out (images, center_count * dims) float32; skipped (images,) int32.
//            patches may be 0: zeros come out.
// Labels     outside 0 .. center_count - 1 are passed over and counted in `skipped`: -1 is what nearest_center gives an invalid descriptor.
// Ties       none: the labels are given.
// Numbers    sums in float32 in patch order; sums of squares in float64, so that no norm of finite values over- or underflows.
// Repeats    the same bits at every run, for every grid and chunk size. Atomics only on integers, and only where their order cannot show.
//
// Versions   one block an image: sorts, sums and normalises in one launch; `values` staged in shared memory where centres x dimensions
//            fit (STAGED=1), else in the output, which stays in the L2 cache.
//            several blocks an image (grid.y), for few images or many centres: the first launch leaves the sums of squares, vlad_scale
//            divides by the norm. The same bits.
// Time       missing: no version has run on a GPU.
// Bound      modelled, at 196 patches, 64 dimensions, 64 centres: 50 kB read (float32) and 16 kB written an image for 13 kFLOP of sums:
//            memory.
// Ideas      descriptors copied into shared memory by cp.async.bulk while the labels are sorted, for fewer round trips to memory;
//            one pass of match_any instead of the bitmap.
//
// Macros     STAGED 0 or 1; those of element.cuh. centers_per_block, group and chunk come from plan.py.
#include "element.cuh"
#include "aggregate.cuh"

extern "C" __global__ void __launch_bounds__(512, 2) vlad(
    const element* __restrict__ descriptors,  // (images, patches, dims)
    long long image_stride, long long row_stride, int patches, int dims,
    const int* __restrict__ labels,  // (images, patches)
    long long label_stride,
    const float* __restrict__ centers,  // (center_count, dims)
    int center_count, int centers_per_block, int group, int chunk, int steps,
    float* out,                   // (images, center_count, dims); no __restrict__: `values` may be the same memory
    double* squares,              // (images, center_count) scratch, or null where one block owns an image
    int* __restrict__ skipped) {  // (images,) or null
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    const long long image = blockIdx.x;
    const int first = blockIdx.y * centers_per_block;
    const int count = min(centers_per_block, center_count - first);
    descriptors += image * image_stride;
    labels += image * label_stride;
    out += (image * center_count + first) * dims;

    Carver carver = {shared_bytes};
    Aggregation a = carve(carver, centers_per_block, count, dims, chunk, out);
    int* const outside = carver.take<int>(1);
    if (threadIdx.x == 0) *outside = 0;

    int start = 0;
    do {  // once even without patches: the values must become zeros
        const int here = min(chunk, patches - start);
        clear_bitmap(a);
        __syncthreads();
        for (int patch = threadIdx.x; patch < here; patch += blockDim.x) {
            const int label = labels[start + patch];
            mark_patch(a, patch, label - first);
            if (label < 0 || label >= center_count) atomicAdd(outside, 1);
        }
        __syncthreads();
        sort_patches(a, here, start == 0);
        add_patches(a, descriptors + start * row_stride, row_stride, start == 0, group);
        start += chunk;
    } while (start < patches);

    if (squares) a.squares = squares + image * center_count + first;
    finish_centers(a, centers + static_cast<long long>(first) * dims, group, steps);
    __syncthreads();
    const bool scaled = steps & L2 && !squares;
    if (STAGED || scaled)
        write_values(a.values, out, static_cast<long long>(count) * dims, scaled, scaled ? image_scale(a.squares, count) : 1.0);
    if (skipped && first == 0 && threadIdx.x == 0) skipped[image] = *outside;
}

// The L2 step of images that several blocks share.
extern "C" __global__ void __launch_bounds__(512) vlad_scale(
    float* out,                            // (images, center_count, dims)
    const double* __restrict__ squares,    // (images, center_count)
    int center_count, int dims, int centers_per_block) {
    const long long image = blockIdx.x;
    const int first = blockIdx.y * centers_per_block;
    const int count = min(centers_per_block, center_count - first);
    const double scale = image_scale(squares + image * center_count, center_count);
    out += (image * center_count + first) * dims;
    write_values(out, out, static_cast<long long>(count) * dims, true, scale);
}
