// Nearest centres of float32 descriptors with the bits of the plain version: tensor cores screen, fmaf decides (sm_80 and newer).
//
// Macro: DEPTH_BLOCKS, blocks of 32 dimensions, 1 to 4. Descriptors and centres split into two bfloat16 each, x = h + l + rest with
// |rest| <= 2^-16 |x|, and three products of halves make scores that are off by no more than `error_bound`. Where the two lowest are
// further apart than two scores can be wrong, the lowest is the nearest in float32 as well; every other row, and every row that is not
// finite or too large for the bound, is scored again against all centres as the plain version does it. The walk over rows and
// codebook is stream.cuh's.
#pragma once
#include "fragment.cuh"

typedef float center_element;

constexpr int THREADS = 256;
constexpr int ROW_TILES = DEPTH_BLOCKS == 1 ? 4 : 2;
constexpr int MIN_BLOCKS = VECTOR == 4 ? 2 : 1;
constexpr int WARP_ROWS = ROW_TILES * 8;
constexpr int TILE_ROWS = THREADS / 32 * WARP_ROWS;
constexpr int TILE_CENTERS = 16;

// 16 centres with their signs turned, high and low halves; |c|^2 / 2 as the accumulators of a lane start, by lane / 4.
struct __align__(16) Tile {
    Fragment operands[2][DEPTH_BLOCKS][2][32];
    Pack<float, 4> start[8];
};

// As in stream.cuh; `squares` are those of the descriptors.
struct __align__(16) Exchange {
    float best[WARP_ROWS][12], second[WARP_ROWS][12];
    int index[WARP_ROWS][12];
    float squares[WARP_ROWS];
};

// Two neighbours rounded to bfloat16, to nearest even.
__device__ __forceinline__ unsigned rounded_pair(float first, float second) {
#if defined(CUDA_ON_CPU)
    return __bfloat16_as_ushort(__float2bfloat16_rn(first)) | static_cast<unsigned>(__bfloat16_as_ushort(__float2bfloat16_rn(second))) << 16;
#else
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
#endif
}

__device__ __forceinline__ void split(const float (&x)[8], Fragment& high, Fragment& low) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        high.value[i] = rounded_pair(x[2 * i], x[2 * i + 1]);
        const float first = __uint_as_float(high.value[i] << 16), second = __uint_as_float(high.value[i] & 0xffff0000u);
        low.value[i] = rounded_pair(x[2 * i] - first, x[2 * i + 1] - second);
    }
}

// Dimensions k .. k + 7 of a row; those past the last are zeros, or with REPEAT the row's first ones.
template <bool REPEAT>
__device__ __forceinline__ void load_eight(float (&x)[8], bool inside, const float* row, int k, int dims) {
#pragma unroll
    for (int i = 0; i < 8; i += VECTOR) {
        const Vector part = REPEAT && VECTOR > 1 ? *reinterpret_cast<const Vector*>(row + (k + i < dims ? k + i : 0))
                                                 : load_if<Vector>(inside && k + i < dims, row + k + i);
#pragma unroll
        for (int j = 0; j < VECTOR; j++) x[i + j] = part.value[j];
    }
}

// As lay_out of stream.cuh.
__device__ __forceinline__ void lay_out(
    Tile* tiles, int tile_count,
    const float* centers,     // (center_count, dims)
    const float* half_norms,  // (center_count,)
    int first, int center_count, int dims) {
#pragma unroll 1
    for (int i = threadIdx.x; i < tile_count * TILE_CENTERS * DEPTH_BLOCKS * 4; i += THREADS) {
        const int t = i % 4, block = i / 4 % DEPTH_BLOCKS, center = i / (4 * DEPTH_BLOCKS);
        float c[8];
        load_eight<false>(c, first + center < center_count, centers + static_cast<long long>(first + center) * dims, block * 32 + 8 * t, dims);
        Fragment halves[2];
        split(c, halves[0], halves[1]);
        const int lane = center % 8 * 4 + t, half = center % TILE_CENTERS / 8;
#pragma unroll
        for (int part = 0; part < 2; part++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                tiles[center / TILE_CENTERS].operands[part][block][j / 2][lane].value[j % 2 * 2 + half] = halves[part].value[j] ^ BOTH_SIGNS;
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < tile_count * TILE_CENTERS; i += THREADS) {
        float* const start = tiles[i / TILE_CENTERS].start[i % 8].value + i % TILE_CENTERS / 8 * 2;
        start[0] = start[1] = first + i < center_count ? half_norms[first + i] : PADDING_HALF_NORM;
    }
}

// A lane's share of the warp's rows, split, and the sums of squares of that share.
struct Rows {
    Fragment high[ROW_TILES][DEPTH_BLOCKS], low[ROW_TILES][DEPTH_BLOCKS];
    float squares[ROW_TILES];

    __device__ __forceinline__ void load(const float* first, long long row_stride, long long last, int dims) {
        const int t = threadIdx.x % 4;
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++) {
            const float* const row = first + min(n * 8LL, last) * row_stride;
            squares[n] = 0.0f;
#pragma unroll
            for (int block = 0; block < DEPTH_BLOCKS; block++) {
                float x[8];
                load_eight<true>(x, true, row, block * 32 + 8 * t, dims);
#pragma unroll
                for (int j = 0; j < 8; j++) squares[n] = fmaf(x[j], x[j], squares[n]);
                split(x, high[n][block], low[n][block]);
            }
        }
    }
};

// More than the scores of the screening and the plain version's can differ, for sum |x_i c_i| <= sqrt(squares * |c|^2). In units of
// that and |c|^2 / 2 together: three products of rests and low halves, 2^-16 each; the tensor cores' 3 dims + 1 additions, 2^-22 each,
// twice what cutting costs; the plain version's dims + 1, 2^-24 each; and a tenth more for the rounding of the bound itself. The rest is
// what underflows: halves and products below 2^-126. Infinite before a sum of products can be.
__device__ __forceinline__ float error_bound(float squares, float largest_half_norm, int dims) {
    const float share = 1.1f * (3.0f / 65536.0f + (3 * dims + 1) * (1.0f / 4194304.0f) + (dims + 1) * (1.0f / 16777216.0f));
    const float x = sqrtf(squares), c = sqrtf(2.0f * largest_half_norm);
    return share / 16.0f * (16.0f * (x * c + largest_half_norm)) + dims * 1e-37f * (1.0f + x + c);
}

// As Minima of stream.cuh, with the second lowest score.
struct Minima {
    float best[ROW_TILES][2], second[ROW_TILES][2];
    int index[ROW_TILES][2];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++)
#pragma unroll
            for (int j = 0; j < 2; j++) best[n][j] = second[n][j] = INFINITE, index[n][j] = 0;
    }

    __device__ __forceinline__ void offer_tile(const Rows& rows, const Tile& tile, int low_center) {
        const int lane = threadIdx.x % 32;
        const Pack<float, 4> start = tile.start[lane / 4];
        float scores[ROW_TILES][4];
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) scores[n][i] = start.value[i];
#pragma unroll
        for (int block = 0; block < DEPTH_BLOCKS; block++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const Fragment high = tile.operands[0][block][h][lane], low = tile.operands[1][block][h][lane];
#pragma unroll
                for (int n = 0; n < ROW_TILES; n++) {
                    const unsigned(&x)[4] = rows.high[n][block].value;
                    const unsigned(&rest)[4] = rows.low[n][block].value;
                    mma_m16n8k16(scores[n], high.value, {rest[2 * h], rest[2 * h + 1]});
                    mma_m16n8k16(scores[n], low.value, {x[2 * h], x[2 * h + 1]});
                    mma_m16n8k16(scores[n], high.value, {x[2 * h], x[2 * h + 1]});
                }
            }
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const float low = scores[n][j], high = scores[n][j + 2], score = fminf(low, high);
                second[n][j] = fminf(fminf(second[n][j], fmaxf(low, high)), fmaxf(best[n][j], score));
                if (score < best[n][j]) index[n][j] = high < low ? low_center + 8 : low_center;
                best[n][j] = fminf(best[n][j], score);
            }
    }

    // The lowest of row `lane` of the warp, and whether another may be the nearest. All lanes of the warp call it.
    __device__ __forceinline__ Nearest reduce(Exchange& exchange, const Rows& rows, float largest_half_norm, int dims, bool& open) const {
        const int lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++) {
            float squares = rows.squares[n];
            squares += __shfl_xor_sync(ALL_LANES, squares, 1);
            squares += __shfl_xor_sync(ALL_LANES, squares, 2);
            if (t == 0) exchange.squares[n * 8 + group] = squares;
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int row = n * 8 + 2 * t + j;
                exchange.best[row][group] = best[n][j];
                exchange.second[row][group] = second[n][j];
                exchange.index[row][group] = index[n][j];
            }
        }
        __syncwarp();
        const int row = lane % WARP_ROWS;
        Nearest nearest = {exchange.best[row][0], exchange.index[row][0]};
        float next = exchange.second[row][0];
#pragma unroll
        for (int i = 1; i < 8; i++) {
            const Nearest other = {exchange.best[row][i], exchange.index[row][i]};
            next = fminf(fminf(next, exchange.second[row][i]), fmaxf(nearest.score, other.score));
            nearest = lower(nearest, other);
        }
        // Open too where the bound is infinite or NaN.
        open = !(next - nearest.score > 2.0f * error_bound(exchange.squares[row], largest_half_norm, dims));
        __syncwarp();
        return nearest;
    }
};

// The plain version's score.
__device__ __forceinline__ float exact_score(const float* row, const float* center, float half_norm, int dims) {
    float dot = 0.0f;
#pragma unroll 2
    for (int k = 0; k < dims; k += VECTOR) {
        const Vector x = *reinterpret_cast<const Vector*>(row + k), c = *reinterpret_cast<const Vector*>(center + k);
#pragma unroll
        for (int j = 0; j < VECTOR; j++) dot = fmaf(x.value[j], c.value[j], dot);
    }
    return half_norm - dot;
}

// By every warp for itself: no barrier, and the codebook's norms are few.
__device__ __forceinline__ float largest_of(const float* half_norms, int center_count) {
    float largest = 0.0f;
    for (int i = threadIdx.x % 32; i < center_count; i += 32) largest = fmaxf(largest, half_norms[i]);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, offset));
    return largest;
}

// The plain version's nearest centre of one row, by a whole warp.
__device__ __forceinline__ Nearest exact_nearest(
    const float* row, const float* centers, const float* half_norms, int center_count, int dims) {
    Nearest nearest = nothing_yet();
#pragma unroll 1  // rare, and unrolled it takes registers from the rest
    for (int center = threadIdx.x % 32; center < center_count; center += 32)
        offer(nearest, exact_score(row, centers + static_cast<long long>(center) * dims, half_norms[center], dims), center);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        nearest = lower(
            nearest, {__shfl_xor_sync(ALL_LANES, nearest.score, offset), __shfl_xor_sync(ALL_LANES, nearest.index, offset)});
    return nearest;
}
