// Scores of 16-bit descriptors on the tensor cores with the codebook resident in shared memory (sm_80 and newer).
//
// Macro: DEPTH_BLOCKS, blocks of 32 dimensions, 1 to 16. A grid of as many blocks as the device holds at a time goes over all rows. A
// block lays the centres out in shared memory once, as the A operands of mma.sync, so that a lane gets a whole operand by one 16-byte
// read. Its warps then take rows from global memory to registers, each row once, as B operands: 16 centres x 8 rows an mma, and no
// register is moved to regroup an operand, no barrier is met. A codebook larger than the block's shared memory passes through it in
// parts, once for each step of the block.
#pragma once
#include "fragment.cuh"

typedef element center_element;

constexpr int THREADS = 256;
constexpr int ROW_TILES = DEPTH_BLOCKS <= 4 ? 4 : 2;  // of 8 rows each: what the registers hold beside accumulators and minima
constexpr int MIN_BLOCKS = VECTOR == 8 && DEPTH_BLOCKS <= 8 ? 2 : 1;
constexpr bool OVERLAP = DEPTH_BLOCKS <= 2;  // room for two tiles' scores: one is multiplied while the other is compared
constexpr int WARP_ROWS = ROW_TILES * 8;
constexpr int TILE_ROWS = THREADS / 32 * WARP_ROWS;
constexpr int TILE_CENTERS = 16;
constexpr int INT_LARGEST = 0x7fffffff;

// 16 centres: of each 32 dimensions, two operands of 16 x 16 with the signs turned; and |c|^2 / 2 as the accumulators of
// a lane start, by lane / 4.
struct __align__(16) Tile {
    Fragment operands[DEPTH_BLOCKS][2][32];
    Pack<float, 4> start[8];
};

// One warp's results on their way from the lanes that share a row to the one that reduces it. 12 words a row: the lanes' stores of one
// word and their reads of four touch all banks once.
struct __align__(16) Exchange {
    float score[WARP_ROWS][12];
    int index[WARP_ROWS][12];
};

// Writes centres first .. first + 16 tile_count - 1; those past the last are zeros whose half norm never wins. A barrier must follow.
__device__ __forceinline__ void lay_out(
    Tile* tiles, int tile_count,
    const element* centers,   // (center_count, dims)
    const float* half_norms,  // (center_count,)
    int first, int center_count, int dims) {
#pragma unroll 1
    for (int i = threadIdx.x; i < tile_count * TILE_CENTERS * DEPTH_BLOCKS * 4; i += THREADS) {
        const int t = i % 4, block = i / 4 % DEPTH_BLOCKS, center = i / (4 * DEPTH_BLOCKS);
        const Fragment c = load_fragment(
            first + center < center_count, centers + static_cast<long long>(first + center) * dims, block * 32 + 8 * t, dims);
        Fragment(&operands)[2][32] = tiles[center / TILE_CENTERS].operands[block];
        const int lane = center % 8 * 4 + t, half = center % TILE_CENTERS / 8;
#pragma unroll
        for (int j = 0; j < 4; j++) operands[j / 2][lane].value[j % 2 * 2 + half] = c.value[j] ^ BOTH_SIGNS;
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < tile_count * TILE_CENTERS; i += THREADS) {
        float* const start = tiles[i / TILE_CENTERS].start[i % 8].value + i % TILE_CENTERS / 8 * 2;
        start[0] = start[1] = first + i < center_count ? half_norms[first + i] : PADDING_HALF_NORM;
    }
}

// A lane's share of the warp's rows: row 8 n + lane / 4 of each row tile n.
struct Rows {
    Fragment x[ROW_TILES][DEPTH_BLOCKS];

    // Rows past the last repeat it, and dimensions past the last repeat the row's first: the centres have zeros there, and a row whose
    // first element is not finite is invalid anyway. So no load waits for a condition.
    __device__ __forceinline__ void load(
        const element* first,  // the lane's first row
        long long row_stride,
        long long last,  // the last row there is, counted from it
        int dims) {
        const int t = threadIdx.x % 4;
        const element* row[ROW_TILES];
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++) row[n] = first + n * 8 * row_stride;
        if (last < WARP_ROWS - 8)
#pragma unroll
            for (int n = 0; n < ROW_TILES; n++) row[n] = first + min(n * 8LL, last) * row_stride;
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++)
#pragma unroll
            for (int block = 0; block < DEPTH_BLOCKS; block++) {
                const int k = block * 32 + 8 * t;
                if constexpr (VECTOR != 8)
                    x[n][block] = load_fragment(true, row[n], k, dims);
                else if (block < DEPTH_BLOCKS / 2)  // below the last dimension, or half the blocks would do
                    x[n][block] = *reinterpret_cast<const Fragment*>(row[n] + 8 * t + block * 32);
                else
                    x[n][block] = *reinterpret_cast<const Fragment*>(row[n] + (k < dims ? k : 0));
            }
    }
};

// A lane's running minima of the scores: of row tile n, rows 2 t and 2 t + 1, over centres lane / 4 and lane / 4 + 8 of each tile. What
// a score that is not finite does to a row is kept apart, on the pipe of the products: 0 x score adds nothing, or turns `check` into
// NaN.
struct Minima {
    float best[ROW_TILES][2], check[ROW_TILES][2];
    int index[ROW_TILES][2];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++)
#pragma unroll
            for (int j = 0; j < 2; j++) best[n][j] = INFINITE, check[n][j] = 0.0f, index[n][j] = 0;
    }

    __device__ __forceinline__ static void multiply(float (&scores)[ROW_TILES][4], const Rows& rows, const Tile& tile) {
        const Pack<float, 4> start = tile.start[threadIdx.x % 32 / 4];
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) scores[n][i] = start.value[i];
#pragma unroll
        for (int block = 0; block < DEPTH_BLOCKS; block++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const Fragment centers = tile.operands[block][h][threadIdx.x % 32];
#pragma unroll
                for (int n = 0; n < ROW_TILES; n++) {
                    const unsigned b[2] = {rows.x[n][block].value[2 * h], rows.x[n][block].value[2 * h + 1]};
                    mma_m16n8k16(scores[n], centers.value, b);
                }
            }
    }

    __device__ __forceinline__ void offer(const float (&scores)[ROW_TILES][4], int low_center) {
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const float low = scores[n][j], high = scores[n][j + 2];
                check[n][j] = fmaf(low, 0.0f, check[n][j]);
                check[n][j] = fmaf(high, 0.0f, check[n][j]);
                const float score = fminf(low, high);
                if (score < best[n][j]) index[n][j] = high < low ? low_center + 8 : low_center;
                best[n][j] = fminf(best[n][j], score);
            }
    }

    // `count`, an even number, of tiles of which the first begins with centre `first`.
    __device__ __forceinline__ void offer_tiles(const Rows& rows, const Tile* tile, int count, int first) {
        int center = first + threadIdx.x % 32 / 4;
        float scores[ROW_TILES][4];
        if constexpr (OVERLAP) {
            float next[ROW_TILES][4];
            multiply(scores, rows, *tile);
#pragma unroll 1
            for (int left = count - 2; left >= 0; left -= 2, center += 2 * TILE_CENTERS) {
                multiply(next, rows, tile[1]);
                offer(scores, center);
                tile += left > 0 ? 2 : 0;  // after the last, its product again, which no one reads
                multiply(scores, rows, *tile);
                offer(next, center + TILE_CENTERS);
            }
        } else {
#pragma unroll 1
            for (int i = 0; i < count; i++, tile++, center += TILE_CENTERS) {
                multiply(scores, rows, *tile);
                offer(scores, center);
            }
        }
    }

    // The minimum of row `lane` of the warp, over the 8 lanes that share it. All lanes of the warp call it.
    __device__ __forceinline__ Nearest reduce(Exchange& exchange) {
        const int lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
        float checks = 0.0f;
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++) checks += check[n][0] + check[n][1];
        if (__any_sync(ALL_LANES, checks != 0.0f))  // rare, and asked once for all rows
#pragma unroll
            for (int n = 0; n < ROW_TILES; n++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    if (check[n][j] != 0.0f) best[n][j] = -INFINITE;
#pragma unroll
        for (int n = 0; n < ROW_TILES; n++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                exchange.score[n * 8 + 2 * t + j][group] = best[n][j];
                exchange.index[n * 8 + 2 * t + j][group] = index[n][j];
            }
        __syncwarp();
        Floats<8> score;
        score.load(exchange.score[lane % WARP_ROWS]);
        Nearest nearest = {score.value[0], INT_LARGEST};
#pragma unroll
        for (int i = 1; i < 8; i++) nearest.score = fminf(nearest.score, score.value[i]);
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
            const Pack<int, 4> four = *reinterpret_cast<const Pack<int, 4>*>(&exchange.index[lane % WARP_ROWS][i]);
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (score.value[i + j] == nearest.score) nearest.index = min(nearest.index, four.value[j]);
        }
        __syncwarp();
        return nearest;
    }
};
