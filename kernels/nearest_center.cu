// Nearest centre of each descriptor.
//
//   index[i]    = argmin_j |x_i - c_j|^2 = argmin_j (|c_j|^2 / 2 - x_i.c_j)
//   distance[i] = max(0, |x_i|^2 + 2 * score)            the squared L2 distance, only where asked for
//
// The paper's NN(f_i) = C_j in equation (1), where descriptors meet the codebook.
//
// Shapes     descriptors (rows, dims) float32, float16 or bfloat16, any row stride; centers (center_count, dims) float32, or the
//            descriptors' type for the mma, stream and wgmma versions; half_norms (center_count,) float32; index (rows,) int32; distance
//            (rows,) float32; invalid_count (1,) uint64, added to.
// Ties       the lowest index.
// Invalid    index -1, distance NaN and one count more for a row whose scores are not all finite in float32: a row that holds NaN or
//            an infinity, or one so large that a product overflows.
// Numbers    products and sums in float32. |x|^2 takes no part in the argmin: it decides nothing, and would cost it bits. Subnormal
//            float32 values count as zero (CuPy compiles with -ftz=true).
// Repeats    the same bits at every run: a descriptor's result depends on no other and on no order of threads. The one atomic adds integers.
//
// Versions   plain   a thread a descriptor. Any shape, few registers; reads x again for each centre, through L1.
//                    For a few dimensions, where a tile would mostly hold padding.
//            tiled   the matrix product X.C^T in tiles of 128 x 64 or 128 x 128, argmin in registers (tiled.cuh).
//                    The same bits as plain.
//            mma     the same on tensor cores for 16-bit descriptors and centres, sm_80 and newer (mma.cuh). Other bits than
//                    tiled: tensor cores add in another order.
//            stream  mma with the codebook resident in shared memory and rows in registers, over a persistent grid (stream.cuh). Up to
//                    512 dimensions. The same bits as mma: the same products are added in the same order, operands exchanged.
//            wgmma   stream with the products of four warps together, centres read by the tensor cores themselves (wgmma.cuh). sm_90a
//                    alone, up to 256 dimensions. mma's bits where the tensor cores add as mma's do, which only hardware can show.
//            screen  float32 on tensor cores, sm_80 and newer: products of split bfloat16 find the rows whose nearest centre no rounding
//                    can change, fmaf decides the others (screen.cuh). Up to 128 dimensions. The same bits as plain.
// Time       missing: no version has run on a GPU.
// Bound      modelled, at 64 dimensions and 64 centres: 256 B (float32) or 128 B (16-bit) read, 4 B written, 8.2 kFLOP a descriptor. In
//            float32 the products are the limit, on tensor cores reading x is.
//
// Macros     METHOD_PLAIN, METHOD_TILED, METHOD_MMA, METHOD_STREAM, METHOD_WGMMA or METHOD_SCREEN; those of element.cuh, tiled.cuh,
//            stream.cuh, wgmma.cuh and screen.cuh.
#include "element.cuh"
#include "argmin.cuh"

__device__ __forceinline__ void write_result(
    int* index, float* distance, unsigned long long* invalid_count, long long row, bool here, const Nearest& nearest, float squared_norm) {
    const int center = index_or_invalid(nearest);
    if (here) {
        index[row] = center;
        if (distance) distance[row] = squared_distance(nearest, squared_norm);
    }
    if (invalid_count) {
        const unsigned invalid = __ballot_sync(ALL_LANES, here && center < 0);
        if (invalid && threadIdx.x % 32 == 0) atomicAdd(invalid_count, static_cast<unsigned long long>(__popc(invalid)));
    }
}

#if defined(METHOD_PLAIN)

extern "C" __global__ void __launch_bounds__(128) nearest_center(
    const element* __restrict__ descriptors,  // (rows, dims)
    long long row_stride, long long rows, int dims,
    const float* __restrict__ centers,     // (center_count, dims)
    const float* __restrict__ half_norms,  // (center_count,)
    int center_count,
    int* __restrict__ index,                           // (rows,)
    float* __restrict__ distance,                      // (rows,) or null
    unsigned long long* __restrict__ invalid_count) {  // (1,) or null
    const long long row = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const bool here = row < rows;
    const element* x = descriptors + (here ? row : 0) * row_stride;
    Nearest nearest = nothing_yet();
    float squared_norm = 0.0f;
    for (int center = 0; center < center_count; center++) {
        const float* c = centers + static_cast<long long>(center) * dims;
        float dot = 0.0f;
        for (int k = 0; k < dims; k++) dot = fmaf(to_float(x[k]), c[k], dot);
        offer(nearest, half_norms[center] - dot, center);
    }
    if (distance)
        for (int k = 0; k < dims; k++) squared_norm = fmaf(to_float(x[k]), to_float(x[k]), squared_norm);
    write_result(index, distance, invalid_count, row, here, nearest, squared_norm);
}

#elif defined(METHOD_STREAM)

#include "stream.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) nearest_center(
    const element* __restrict__ descriptors,  // (rows, dims)
    long long row_stride, long long rows, int dims,
    const center_element* __restrict__ centers,  // (center_count, dims)
    const float* __restrict__ half_norms,        // (center_count,)
    int center_count,
    int* __restrict__ index,                         // (rows,)
    float* __restrict__ distance,                    // (rows,) or null
    unsigned long long* __restrict__ invalid_count,  // (1,) or null
    int part_tiles) {                                // of 16 centres, what shared memory holds
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    Exchange* const exchanges = reinterpret_cast<Exchange*>(shared_bytes);
    Tile* const part = reinterpret_cast<Tile*>(exchanges + THREADS / 32);
    const int tiles = (center_count + 2 * TILE_CENTERS - 1) / (2 * TILE_CENTERS) * 2;  // taken in pairs
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const long long step = static_cast<long long>(gridDim.x) * TILE_ROWS;
    long long row0 = static_cast<long long>(blockIdx.x) * TILE_ROWS;
    const element* lane_rows = descriptors + (row0 + warp * WARP_ROWS + lane / 4) * row_stride;
    bool laid_out = false;
    for (; row0 < rows; row0 += step, lane_rows += step * row_stride) {  // warps past the last row too: barriers wait for them
        Rows x;
        x.load(lane_rows, row_stride, rows - 1 - (row0 + warp * WARP_ROWS + lane / 4), dims);
        Minima minima;
        minima.clear();
        for (int first = 0; first < tiles; first += part_tiles) {
            const int here = min(part_tiles, tiles - first);
            if (!laid_out) {
                __syncthreads();
                lay_out(part, here, centers, half_norms, first * TILE_CENTERS, center_count, dims);
                __syncthreads();
                laid_out = tiles <= part_tiles;
            }
            minima.offer_tiles(x, part, here, first * TILE_CENTERS);
        }
        const Nearest nearest = minima.reduce(exchanges[warp]);
        const long long row = row0 + warp * WARP_ROWS + lane;
        const bool mine = lane < WARP_ROWS && row < rows;
        const float squared_norm = distance && mine ? sum_of_squares(descriptors + row * row_stride, dims) : 0.0f;
        write_result(index, distance, invalid_count, row, mine, nearest, squared_norm);
    }
}

#elif defined(METHOD_WGMMA)

#include "wgmma.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) nearest_center(
    const element* __restrict__ descriptors,  // (rows, dims)
    long long row_stride, long long rows, int dims,
    const center_element* __restrict__ centers,  // (center_count, dims)
    const float* __restrict__ half_norms,        // (center_count,)
    int center_count,
    int* __restrict__ index,                         // (rows,)
    float* __restrict__ distance,                    // (rows,) or null
    unsigned long long* __restrict__ invalid_count,  // (1,) or null
    int part_tiles) {                                // of 128 centres, what shared memory holds
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    Tile* const part = reinterpret_cast<Tile*>(shared_bytes);
    const int tiles = (center_count + TILE_CENTERS - 1) / TILE_CENTERS;
    const int lane = threadIdx.x % 32, lane_row = threadIdx.x / 32 * 16 + lane / 4;  // warps have 16 rows each
    const float one = __int_as_float(0x3f800000 | dims >> 31);
    const long long step = static_cast<long long>(gridDim.x) * TILE_ROWS;
    long long row0 = static_cast<long long>(blockIdx.x) * TILE_ROWS;
    bool laid_out = false;
    Rows x, next;
    x.load(descriptors, row_stride, row0 + lane_row, rows, dims);
    for (; row0 < rows; row0 += step) {
        if constexpr (AHEAD) next.load(descriptors, row_stride, row0 + step + lane_row, rows, dims);
        Minima minima;
        minima.clear(one);
        for (int first = 0; first < tiles; first += part_tiles) {
            const int here = min(part_tiles, tiles - first);
            if (!laid_out) {
                __syncthreads();
                lay_out(part, here, centers, half_norms, first * TILE_CENTERS, center_count, dims);
                __syncthreads();
                laid_out = tiles <= part_tiles;
            }
            minima.offer_tiles(x, part, here, first * TILE_CENTERS + lane % 4 * 2);
        }
        const Nearest nearest = minima.reduce();
        const long long row = row0 + lane_row + lane / 2 % 2 * 8;
        const bool mine = lane % 2 == 0 && row < rows;
        const float squared_norm = distance && mine ? sum_of_squares(descriptors + row * row_stride, dims) : 0.0f;
        write_result(index, distance, invalid_count, row, mine, nearest, squared_norm);
        if constexpr (AHEAD)
            x = next;
        else
            x.load(descriptors, row_stride, row0 + step + lane_row, rows, dims);
    }
}

#elif defined(METHOD_SCREEN)

#include "screen.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) nearest_center(
    const float* __restrict__ descriptors,  // (rows, dims)
    long long row_stride, long long rows, int dims,
    const float* __restrict__ centers,     // (center_count, dims)
    const float* __restrict__ half_norms,  // (center_count,)
    int center_count,
    int* __restrict__ index,                         // (rows,)
    float* __restrict__ distance,                    // (rows,) or null
    unsigned long long* __restrict__ invalid_count,  // (1,) or null
    int part_tiles) {                                // of 16 centres, what shared memory holds
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    Exchange* const exchanges = reinterpret_cast<Exchange*>(shared_bytes);
    Tile* const part = reinterpret_cast<Tile*>(exchanges + THREADS / 32);
    const int tiles = (center_count + 2 * TILE_CENTERS - 1) / (2 * TILE_CENTERS) * 2;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const long long step = static_cast<long long>(gridDim.x) * TILE_ROWS;
    const float largest_half_norm = largest_of(half_norms, center_count);
    bool laid_out = false;
    for (long long row0 = static_cast<long long>(blockIdx.x) * TILE_ROWS; row0 < rows; row0 += step) {
        const long long warp_row = row0 + warp * WARP_ROWS, lane_row = warp_row + lane / 4;
        Rows x;
        x.load(descriptors + lane_row * row_stride, row_stride, rows - 1 - lane_row, dims);
        Minima minima;
        minima.clear();
        for (int first = 0; first < tiles; first += part_tiles) {
            const int here = min(part_tiles, tiles - first);
            if (!laid_out) {
                __syncthreads();
                lay_out(part, here, centers, half_norms, first * TILE_CENTERS, center_count, dims);
                __syncthreads();
                laid_out = tiles <= part_tiles;
            }
#pragma unroll 1
            for (int i = 0; i < here; i++) minima.offer_tile(x, part[i], (first + i) * TILE_CENTERS + lane / 4);
        }
        bool open;
        Nearest nearest = minima.reduce(exchanges[warp], x, largest_half_norm, dims, open);
        const long long row = warp_row + lane;
        const bool mine = lane < WARP_ROWS && row < rows;
        for (unsigned left = __ballot_sync(ALL_LANES, mine && open); left; left &= left - 1) {
            const int held = __ffs(left) - 1;
            const Nearest exact = exact_nearest(descriptors + (warp_row + held) * row_stride, centers, half_norms, center_count, dims);
            if (lane == held) nearest = exact;
        }
        float squared_norm = 0.0f;
        if (distance && mine) {
            const float* const x_row = descriptors + row * row_stride;
            const int center = nearest.index;
            if (!open) nearest.score = exact_score(x_row, centers + static_cast<long long>(center) * dims, half_norms[center], dims);
            squared_norm = sum_of_squares(x_row, dims);
        }
        write_result(index, distance, invalid_count, row, mine, nearest, squared_norm);
    }
}

#else

#if defined(METHOD_TILED)
#include "tiled.cuh"
#else
#include "mma.cuh"
#endif

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) nearest_center(
    const element* __restrict__ descriptors,  // (rows, dims)
    long long row_stride, long long rows, int dims,
    const center_element* __restrict__ centers,  // (center_count, dims)
    const float* __restrict__ half_norms,        // (center_count,)
    int center_count,
    int* __restrict__ index,                           // (rows,)
    float* __restrict__ distance,                      // (rows,) or null
    unsigned long long* __restrict__ invalid_count) {  // (1,) or null
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    Tiles& tiles = *reinterpret_cast<Tiles*>(shared_bytes);
    const long long row0 = static_cast<long long>(blockIdx.x) * TILE_ROWS;
    const int rows_here = static_cast<int>(min(static_cast<long long>(TILE_ROWS), rows - row0));
    Nearest nearest;
    float squared_norm;
    const int row = nearest_of_tile(
        tiles, descriptors + row0 * row_stride, row_stride, rows_here, dims, centers, half_norms, center_count, distance != nullptr, nearest,
        squared_norm);
    write_result(index, distance, invalid_count, row0 + row, 0 <= row && row < rows_here, nearest, squared_norm);
}

#endif
