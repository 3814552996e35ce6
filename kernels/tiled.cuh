// Scores of a tile of descriptors on the CUDA cores: registers x shared memory, as a blocked SGEMM, with the argmin in registers.
//
// Macros: TILE_CENTERS (32, 64 or 128) centres a tile. A block of 256 threads owns 128 descriptors. Its threads stand in 16 columns; the
// thread in column c holds 8 rows x TILE_CENTERS / 16 centres of partial dot products, fed by 16-byte reads of shared memory. The next
// step's operands are in flight from global memory to registers while this step computes, and shared memory has two buffers, so there
// is one barrier a step. Each dot product is one chain of fmaf in ascending k: the same bits as the plain version's.
#pragma once

typedef float center_element;

constexpr int THREADS = 256;
constexpr int MIN_BLOCKS = VECTOR > 1 ? 2 : 1;  // addressing of single elements takes more registers
constexpr int COLUMNS = 16;
constexpr int TILE_ROWS = 128;
constexpr int TILE_DEPTH = 16;
constexpr int THREAD_ROWS = TILE_ROWS * COLUMNS / THREADS;
constexpr int THREAD_CENTERS = TILE_CENTERS / COLUMNS;
constexpr int GROUP_CENTERS = THREAD_CENTERS < 4 ? THREAD_CENTERS : 4;  // neighbours that a thread reads at once
constexpr int CENTER_VECTOR = VECTOR > 1 ? GROUP_CENTERS : 1;
constexpr int ROW_LOADS = TILE_ROWS * TILE_DEPTH / (VECTOR * THREADS);
constexpr int CENTER_LOADS = TILE_CENTERS * TILE_DEPTH / (CENTER_VECTOR * THREADS);

// Tiles lie transposed, k outermost, so that a thread's rows are neighbours; 4 floats of padding halve the conflicts of the transposing
// stores and keep 16-byte alignment.
struct __align__(16) Tiles {
    float rows[2][TILE_DEPTH][TILE_ROWS + 4];
    float centers[2][TILE_DEPTH][TILE_CENTERS + 4];
};

// One step's operands on their way from global to shared memory. Threads go along k first: a warp reads whole sectors.
struct Fetched {
    typedef Pack<float, CENTER_VECTOR> CenterPack;
    Vector rows[ROW_LOADS];
    CenterPack centers[CENTER_LOADS];

    __device__ __forceinline__ void load(
        const element* descriptors,  // (rows, dims)
        long long row_stride, int row_count,
        const float* centers_from,  // (center_count, dims), from the tile's first centre on
        int center_count, int dims, int k0) {
#pragma unroll
        for (int i = 0; i < ROW_LOADS; i++) {
            const int at = (i * THREADS + threadIdx.x) * VECTOR, row = at / TILE_DEPTH, k = k0 + at % TILE_DEPTH;
            rows[i] = load_if<Vector>(row < row_count && k < dims, descriptors + row * row_stride + k);
        }
#pragma unroll
        for (int i = 0; i < CENTER_LOADS; i++) {
            const int at = (i * THREADS + threadIdx.x) * CENTER_VECTOR, center = at / TILE_DEPTH, k = k0 + at % TILE_DEPTH;
            centers[i] = load_if<CenterPack>(center < center_count && k < dims, centers_from + static_cast<long long>(center) * dims + k);
        }
    }

    __device__ __forceinline__ void store(Tiles& tiles, int buffer) const {
#pragma unroll
        for (int i = 0; i < ROW_LOADS; i++) {
            const int at = (i * THREADS + threadIdx.x) * VECTOR, row = at / TILE_DEPTH, k = at % TILE_DEPTH;
#pragma unroll
            for (int j = 0; j < VECTOR; j++) tiles.rows[buffer][k + j][row] = component(rows[i], j);
        }
#pragma unroll
        for (int i = 0; i < CENTER_LOADS; i++) {
            const int at = (i * THREADS + threadIdx.x) * CENTER_VECTOR, center = at / TILE_DEPTH, k = at % TILE_DEPTH;
#pragma unroll
            for (int j = 0; j < CENTER_VECTOR; j++) tiles.centers[buffer][k + j][center] = centers[i].value[j];
        }
    }
};

// A thread's centres are groups of neighbours, 4 and 64 apart where it has so many, so that the 16 columns together read contiguous bytes.
__device__ __forceinline__ int center_in_tile(int column, int j) {
    return j / GROUP_CENTERS * (GROUP_CENTERS * COLUMNS) + column * GROUP_CENTERS + j % GROUP_CENTERS;
}

// dots += rows x centers of one step.
__device__ __forceinline__ void multiply(
    const Tiles& tiles, int buffer, int first_row, int column, float (&dots)[THREAD_ROWS][THREAD_CENTERS]) {
#pragma unroll
    for (int k = 0; k < TILE_DEPTH; k++) {
        float x[THREAD_ROWS], c[THREAD_CENTERS];
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i += 4) {
            Floats<4> four;
            four.load(&tiles.rows[buffer][k][first_row + i]);
#pragma unroll
            for (int j = 0; j < 4; j++) x[i + j] = four.value[j];
        }
#pragma unroll
        for (int i = 0; i < THREAD_CENTERS; i += GROUP_CENTERS) {
            typedef Pack<float, GROUP_CENTERS> Group;
            const Group group = *reinterpret_cast<const Group*>(&tiles.centers[buffer][k][center_in_tile(column, i)]);
#pragma unroll
            for (int j = 0; j < GROUP_CENTERS; j++) c[i + j] = group.value[j];
        }
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++)
#pragma unroll
            for (int j = 0; j < THREAD_CENTERS; j++) dots[i][j] = fmaf(x[i], c[j], dots[i][j]);
    }
}

// The minimum of each of the thread's rows over one tile of centres, reduced over the columns; `dots` is zero afterwards.
__device__ __forceinline__ Nearest nearest_of_dots(
    float (&dots)[THREAD_ROWS][THREAD_CENTERS], const float* half_norms, int center0, int center_count, int column) {
    Nearest best[THREAD_ROWS];
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) best[i] = nothing_yet();
#pragma unroll
    for (int j = 0; j < THREAD_CENTERS; j++) {
        const int center = center0 + center_in_tile(column, j);
        const float half_norm = center < center_count ? half_norms[center] : PADDING_HALF_NORM;
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; i++) {
            offer(best[i], half_norm - dots[i][j], center);
            dots[i][j] = 0.0f;
        }
    }
    return reduce_rows<THREAD_ROWS, COLUMNS>(best, column);
}

// Nearest centres of up to TILE_ROWS descriptors; all threads of the block call it. Returns the row (of the tile) whose result this
// thread holds in `nearest` and, if asked for, `squared_norm`; or -1. Ends with a barrier, so the tiles may be used again at once.
__device__ __forceinline__ int nearest_of_tile(
    Tiles& tiles,
    const element* descriptors,  // (row_count, dims)
    long long row_stride, int row_count, int dims,
    const float* centers,     // (center_count, dims)
    const float* half_norms,  // (center_count,)
    int center_count, bool with_norms, Nearest& nearest, float& squared_norm) {
    constexpr int HOLDERS = COLUMNS / THREAD_ROWS;  // lanes that end up with the same row
    const int column = threadIdx.x % COLUMNS, first_row = threadIdx.x / COLUMNS * THREAD_ROWS;
    const int held_row = first_row + column / HOLDERS;
    const int depth_steps = (dims + TILE_DEPTH - 1) / TILE_DEPTH;

    nearest = nothing_yet();
    squared_norm = 0.0f;
    float dots[THREAD_ROWS][THREAD_CENTERS];
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++)
#pragma unroll
        for (int j = 0; j < THREAD_CENTERS; j++) dots[i][j] = 0.0f;

    Fetched next;
    next.load(descriptors, row_stride, row_count, centers, center_count, dims, 0);
    next.store(tiles, 0);
    __syncthreads();

    int buffer = 0;
    for (int center0 = 0; center0 < center_count; center0 += TILE_CENTERS) {
        for (int step = 0; step < depth_steps; step++) {
            const bool last_of_tile = step + 1 == depth_steps;
            const int next_center0 = last_of_tile ? center0 + TILE_CENTERS : center0;
            const int next_k0 = last_of_tile ? 0 : (step + 1) * TILE_DEPTH;
            const bool more = next_center0 < center_count;
            if (more)
                next.load(descriptors, row_stride, row_count, centers + static_cast<long long>(next_center0) * dims,
                          center_count - next_center0, dims, next_k0);
            multiply(tiles, buffer, first_row, column, dots);
            if (with_norms && center0 == 0)
#pragma unroll
                for (int k = 0; k < TILE_DEPTH; k++) {
                    const float x = tiles.rows[buffer][k][held_row];
                    squared_norm = fmaf(x, x, squared_norm);
                }
            if (last_of_tile) nearest = lower(nearest, nearest_of_dots(dots, half_norms, center0, center_count, column));
            buffer ^= 1;
            if (more) next.store(tiles, buffer);
            __syncthreads();
        }
    }
    return column % HOLDERS == 0 ? held_row : -1;
}
