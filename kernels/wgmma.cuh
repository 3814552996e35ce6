// Scores of 16-bit descriptors by wgmma, the matrix product of four warps, with the codebook resident in shared memory. For sm_90a, code
// that compute capability 9.0 alone runs.
//
// Macro: DEPTH_BLOCKS, blocks of 32 dimensions, 1 to 8. A grid of as many blocks as the device holds at a time goes over all rows. A
// warpgroup has 64 rows in registers, each read once, as the A operand; the centres, 128 a product, are the B operand, which the tensor
// cores read from shared memory themselves: while they make one warpgroup's scores, the others compare theirs. A codebook larger than
// shared memory passes through it in parts, once for each step of the block.
#pragma once
#include "fragment.cuh"

typedef element center_element;

constexpr int WARPGROUPS = DEPTH_BLOCKS <= 2 ? 4 : VECTOR == 8 ? 3 : 2;  // what the registers hold
constexpr bool AHEAD = DEPTH_BLOCKS <= 4;                                // room for the rows of the next step
constexpr int THREADS = 128 * WARPGROUPS;
constexpr int MIN_BLOCKS = 1;
constexpr int GROUP_ROWS = 64;
constexpr int TILE_ROWS = WARPGROUPS * GROUP_ROWS;
constexpr int TILE_CENTERS = 128;
constexpr int SCORES = TILE_CENTERS / 2;  // of a thread: 2 rows by every fourth pair of centres

// 128 centres x 16 dimensions in core matrices of 8 centres x 16 bytes, in the order that describe() states.
struct __align__(16) Operand {
    Pack<unsigned, 4> center[TILE_CENTERS / 8][2][8];
};

struct __align__(16) Tile {
    Operand operands[DEPTH_BLOCKS][2];
    Pack<float, 4> start[TILE_CENTERS / 2];  // half norms of two centres, twice: what a lane's sums of its two rows begin with
};

// The matrix descriptor of an operand, dimensions contiguous, not swizzled: its address, the bytes from a core matrix to the one of the
// next 8 dimensions, and to the one of the next 8 centres, all in units of 16 bytes.
__device__ __forceinline__ unsigned long long describe(const Operand& operand) {
    const unsigned long long along_dims = sizeof operand.center[0][0] / 16, along_centers = sizeof operand.center[0] / 16;
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(&operand));
    return address % (1u << 18) / 16 | along_dims << 16 | along_centers << 32;
}

#if defined(CUDA_ON_CPU)

using cuda_on_cpu::wgmma_commit;
using cuda_on_cpu::wgmma_fence;
using cuda_on_cpu::wgmma_fence_shared;
using cuda_on_cpu::wgmma_wait;

__device__ __forceinline__ void wgmma_m64n128k16(float (&d)[SCORES], const unsigned (&a)[4], unsigned long long b) {
    cuda_on_cpu::wgmma_m64n128k16(d, a, b, [](unsigned short bits) {
#if defined(ELEMENT_FLOAT16)
        return to_float(bits);
#else
        return __uint_as_float(static_cast<unsigned>(bits) << 16);
#endif
    });
}

#else

#if defined(ELEMENT_FLOAT16)
#define WGMMA_TYPES "f16.f16"
#else
#define WGMMA_TYPES "bf16.bf16"
#endif
#define WGMMA_D8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define WGMMA_D32(d, i) WGMMA_D8(d, i), WGMMA_D8(d, i + 8), WGMMA_D8(d, i + 16), WGMMA_D8(d, i + 24)
#define WGMMA_D(d) WGMMA_D32(d, 0), WGMMA_D32(d, 32)

// d += a x b, begun and not waited for. Until wgmma_wait no one may touch d, a or what b describes.
__device__ __forceinline__ void wgmma_m64n128k16(float (&d)[SCORES], const unsigned (&a)[4], unsigned long long b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." WGMMA_TYPES
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, "
        "%25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, 1, 1, 1, "
        "0;"
        : WGMMA_D(d)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// What the threads wrote to shared memory is there for the tensor cores, once a barrier has followed.
__device__ __forceinline__ void wgmma_fence_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// The registers are written before the products that follow read them.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// d is there.
__device__ __forceinline__ void wgmma_wait(float (&d)[SCORES]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" : WGMMA_D(d)::"memory");
}

#endif

// Writes centres first .. first + 128 tile_count - 1; those past the last are zeros whose half norm never wins. A barrier must follow.
__device__ __forceinline__ void lay_out(
    Tile* tiles, int tile_count,
    const element* centers,   // (center_count, dims)
    const float* half_norms,  // (center_count,)
    int first, int center_count, int dims) {
#pragma unroll 1
    for (int i = threadIdx.x; i < tile_count * TILE_CENTERS * DEPTH_BLOCKS * 4; i += THREADS) {
        const int t = i % 4, block = i / 4 % DEPTH_BLOCKS, center = i / (4 * DEPTH_BLOCKS), place = center % TILE_CENTERS;
        const Fragment c = load_fragment(
            first + center < center_count, centers + static_cast<long long>(first + center) * dims, block * 32 + 8 * t, dims);
#pragma unroll
        for (int j = 0; j < 4; j++)
            tiles[center / TILE_CENTERS].operands[block][j / 2].center[place / 8][j % 2][place % 8].value[t] = c.value[j] ^ BOTH_SIGNS;
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < tile_count * TILE_CENTERS; i += THREADS) {
        float* const start = tiles[i / TILE_CENTERS].start[i % TILE_CENTERS / 2].value + i % 2;
        start[0] = start[2] = first + i < center_count ? half_norms[first + i] : PADDING_HALF_NORM;
    }
    wgmma_fence_shared();
}

// A lane's share of its warp's 16 rows: rows lane / 4 and lane / 4 + 8.
struct Rows {
    Fragment x[2][DEPTH_BLOCKS];

    // Rows `first` and first + 8; those past the last repeat it. Dimensions past the last repeat the row's first: the centres have zeros
    // there, and a row whose first element is not finite is invalid anyway. So no load waits for a condition.
    __device__ __forceinline__ void load(const element* descriptors, long long row_stride, long long first, long long rows, int dims) {
        const int t = threadIdx.x % 4;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const element* const row = descriptors + min(first + 8 * half, rows - 1) * row_stride;
#pragma unroll
            for (int block = 0; block < DEPTH_BLOCKS; block++) {
                const int k = block * 32 + 8 * t;
                if constexpr (VECTOR != 8)
                    x[half][block] = load_fragment(true, row, k, dims);
                else
                    x[half][block] = *reinterpret_cast<const Fragment*>(row + (k < dims ? k : 0));
            }
        }
    }
};

// Begins the scores of a tile.
__device__ __forceinline__ void multiply(float (&scores)[SCORES], const Rows& rows, const Tile& tile) {
#pragma unroll
    for (int i = 0; i < TILE_CENTERS / 8; i++) {
        const Pack<float, 4> start = tile.start[4 * i + threadIdx.x % 4];
#pragma unroll
        for (int j = 0; j < 4; j++) scores[4 * i + j] = start.value[j];
    }
    wgmma_fence();
#pragma unroll
    for (int block = 0; block < DEPTH_BLOCKS; block++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const Fragment &low = rows.x[0][block], &high = rows.x[1][block];
            const unsigned a[4] = {low.value[2 * h], high.value[2 * h], low.value[2 * h + 1], high.value[2 * h + 1]};
            wgmma_m64n128k16(scores, a, describe(tile.operands[block][h]));
        }
    wgmma_commit();
}

// Where score < best: first = a and second = b. Comparing and taking minima keeps one pipe busy, so this is done on that of the
// products, by one x a - 0; `one` must be 1 without the compiler's knowing it.
__device__ __forceinline__ void take_if_lower(float score, float best, float one, float& first, float a, float& second, float b) {
#if defined(CUDA_ON_CPU)
    if (score < best) first = one * a, second = one * b;
#else
    asm("{\n"
        ".reg .pred lower;\n"
        "setp.lt.ftz.f32 lower, %2, %3;\n"
        "@lower fma.rn.ftz.f32 %0, %4, %5, 0f80000000;\n"
        "@lower fma.rn.ftz.f32 %1, %4, %6, 0f80000000;\n"
        "}"
        : "+f"(first), "+f"(second)
        : "f"(score), "f"(best), "f"(one), "f"(a), "f"(b));
#endif
}

// A lane's running minima of the scores of its two rows, over centres 2 t and 2 t + 1 of every 8. What a score that is not finite does
// to a row is kept apart, on the pipe of the products: 0 x score adds nothing, or turns `check` into NaN.
struct Minima {
    float best[2], check[2], one;
    int index[2];

    __device__ __forceinline__ void clear(float one_) {
        one = one_;
#pragma unroll
        for (int half = 0; half < 2; half++) best[half] = INFINITE, check[half] = 0.0f, index[half] = 0;
    }

    __device__ __forceinline__ void offer(const float (&scores)[SCORES], int low_center) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float pair = -1.0f, low_of_pair = 0.0f;  // which pair of the lane's centres of this tile has the minimum, in ascending order
#pragma unroll
            for (int i = 0; i < TILE_CENTERS / 8; i++) {
                const float low = scores[4 * i + 2 * half], high = scores[4 * i + 2 * half + 1];
                check[half] = fmaf(low, 0.0f, check[half]);
                check[half] = fmaf(high, 0.0f, check[half]);
                const float score = fminf(low, high);
                take_if_lower(score, best[half], one, pair, static_cast<float>(i), low_of_pair, low);
                best[half] = fminf(best[half], score);
            }
            if (pair >= 0.0f) index[half] = low_center + 8 * static_cast<int>(pair) + (low_of_pair != best[half]);
        }
    }

    // `count` tiles of which the first begins with the lane's centre `low_center`.
    __device__ __forceinline__ void offer_tiles(const Rows& rows, const Tile* tile, int count, int low_center) {
#pragma unroll 1
        for (int i = 0; i < count; i++, tile++, low_center += TILE_CENTERS) {
            float scores[SCORES];
            multiply(scores, rows, *tile);
            wgmma_wait(scores);
            offer(scores, low_center);
        }
    }

    // The minimum of row lane / 4 + lane / 2 % 2 * 8 of the warp, over the 4 lanes that share it. All lanes of the warp call it.
    __device__ __forceinline__ Nearest reduce() const {
        Nearest nearest[2];
#pragma unroll
        for (int half = 0; half < 2; half++) nearest[half] = {check[half] == 0.0f ? best[half] : -INFINITE, index[half]};
        return reduce_rows<2, 4>(nearest, threadIdx.x % 4);
    }
};
