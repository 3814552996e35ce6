// Scores of a tile of 16-bit descriptors on the tensor cores (mma.sync m16n8k16, float32 accumulators; sm_80 and newer).
//
// A warp owns 32 descriptors and goes through the centres 64 at a time: 2 x 8 accumulators of 16 x 8. Centres pass through shared
// memory in two buffers of 64 centres x 64 dimensions, one barrier a step; descriptors go from global memory to registers.
//
// Fragments take the dimensions as they lie in memory (fragment.cuh): no ldmatrix, no swizzle. Rows of centres are 192 bytes apart, so
// that the 8 lanes of one phase of a 16-byte read, 2 centres x 64 bytes, touch all 32 banks once.
#pragma once
#include "fragment.cuh"

typedef element center_element;

constexpr int THREADS = 256;
constexpr int MIN_BLOCKS = VECTOR == 8 ? 2 : 1;  // addressing of single elements takes more registers
constexpr int WARP_ROWS = 32;
constexpr int TILE_ROWS = THREADS / 32 * WARP_ROWS;
constexpr int TILE_CENTERS = 64;
constexpr int TILE_DEPTH = 64;
constexpr int CENTER_PITCH = TILE_DEPTH + 32;
constexpr int SUBTILES = TILE_CENTERS / 8;
constexpr int CENTER_LOADS = TILE_CENTERS * TILE_DEPTH / (8 * THREADS);

struct __align__(16) Tiles {
    element centers[2][TILE_CENTERS][CENTER_PITCH];
};

// One step's centres on their way from global to shared memory.
struct Fetched {
    Fragment centers[CENTER_LOADS];

    __device__ __forceinline__ void load(const element* centers_from, int center_count, int dims, int k0) {
#pragma unroll
        for (int i = 0; i < CENTER_LOADS; i++) {
            const int at = (i * THREADS + threadIdx.x) * 8, center = at / TILE_DEPTH, k = k0 + at % TILE_DEPTH;
            centers[i] = load_fragment(center < center_count, centers_from + static_cast<long long>(center) * dims, k, dims);
        }
    }

    __device__ __forceinline__ void store(Tiles& tiles, int buffer) const {
#pragma unroll
        for (int i = 0; i < CENTER_LOADS; i++) {
            const int at = (i * THREADS + threadIdx.x) * 8, center = at / TILE_DEPTH, k = at % TILE_DEPTH;
            Fragment turned;
#pragma unroll
            for (int j = 0; j < 4; j++) turned.value[j] = centers[i].value[j] ^ BOTH_SIGNS;
            *reinterpret_cast<Fragment*>(&tiles.centers[buffer][center][k]) = turned;
        }
    }
};

// Accumulators of one tile of centres as they start: |c|^2 / 2, from which the products with the centres' signs turned make scores.
__device__ __forceinline__ void start_scores(
    float (&scores)[2][SUBTILES][4], const float* half_norms, int center0, int center_count, int t) {
#pragma unroll
    for (int s = 0; s < SUBTILES; s++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int center = center0 + s * 8 + 2 * t + j;
            const float half_norm = center < center_count ? half_norms[center] : PADDING_HALF_NORM;
#pragma unroll
            for (int r = 0; r < 4; r++) scores[r / 2][s][r % 2 * 2 + j] = half_norm;
        }
}

// The minimum of each of the lane's 4 rows over one tile of centres, reduced over the group of 4 lanes: row t of lane t.
__device__ __forceinline__ Nearest nearest_of_scores(const float (&scores)[2][SUBTILES][4], int center0, int t) {
    Nearest best[4];
#pragma unroll
    for (int r = 0; r < 4; r++) best[r] = nothing_yet();
#pragma unroll
    for (int s = 0; s < SUBTILES; s++)
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int r = 0; r < 4; r++) offer(best[r], scores[r / 2][s][r % 2 * 2 + j], center0 + s * 8 + 2 * t + j);
    return reduce_rows<4, 4>(best, t);
}

// As nearest_of_tile of tiled.cuh, for TILE_ROWS = 256 rows of 16-bit elements and centres of the same type.
__device__ __forceinline__ int nearest_of_tile(
    Tiles& tiles,
    const element* descriptors,  // (row_count, dims)
    long long row_stride, int row_count, int dims,
    const element* centers,   // (center_count, dims)
    const float* half_norms,  // (center_count,)
    int center_count, bool with_norms, Nearest& nearest, float& squared_norm) {
    const int lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
    const int warp_row = threadIdx.x / 32 * WARP_ROWS + group;
    const int depth_steps = (dims + TILE_DEPTH - 1) / TILE_DEPTH;

    // Row r of a lane, r = 0..3, is row warp_row + 8 r: both halves of two 16-row operands.
    nearest = nothing_yet();
    float scores[2][SUBTILES][4];

    Fetched next;
    next.load(centers, center_count, dims, 0);
    next.store(tiles, 0);
    __syncthreads();

    int buffer = 0;
    for (int center0 = 0; center0 < center_count; center0 += TILE_CENTERS) {
        start_scores(scores, half_norms, center0, center_count, t);
        for (int step = 0; step < depth_steps; step++) {
            const bool last_of_tile = step + 1 == depth_steps;
            const int next_center0 = last_of_tile ? center0 + TILE_CENTERS : center0;
            const int next_k0 = last_of_tile ? 0 : (step + 1) * TILE_DEPTH;
            const bool more = next_center0 < center_count;
            if (more)
                next.load(centers + static_cast<long long>(next_center0) * dims, center_count - next_center0, dims, next_k0);
#pragma unroll 1  // unrolled, the loads of both halves are hoisted and spill at two blocks a multiprocessor
            for (int k = 0; k < TILE_DEPTH; k += 32) {
                Fragment x[4];
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    const int row = warp_row + 8 * r;
                    x[r] = load_fragment(row < row_count, descriptors + row * row_stride, step * TILE_DEPTH + k + 8 * t, dims);
                }
#pragma unroll
                for (int s = 0; s < SUBTILES; s++) {
                    const Fragment c = *reinterpret_cast<const Fragment*>(&tiles.centers[buffer][s * 8 + group][k + 8 * t]);
#pragma unroll
                    for (int pair = 0; pair < 4; pair += 2) {
                        const unsigned b[2] = {c.value[pair], c.value[pair + 1]};
#pragma unroll
                        for (int half = 0; half < 2; half++) {
                            const Fragment &upper = x[2 * half], &lower_rows = x[2 * half + 1];
                            const unsigned a[4] = {
                                upper.value[pair], lower_rows.value[pair], upper.value[pair + 1], lower_rows.value[pair + 1]};
                            mma_m16n8k16(scores[half][s], a, b);
                        }
                    }
                }
            }
            buffer ^= 1;
            if (more) next.store(tiles, buffer);
            __syncthreads();
        }

        nearest = lower(nearest, nearest_of_scores(scores, center0, t));
    }

    const int held_row = warp_row + 8 * t;
    squared_norm = with_norms && held_row < row_count ? sum_of_squares(descriptors + held_row * row_stride, dims) : 0.0f;
    return held_row;
}
