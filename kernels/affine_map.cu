// Normalisation and PCA of 16-bit features, as one affine map.
//
//   out[i, j] = sum over k of x[i, k] * (high[j, k] + low[j, k]) + offset[j]     of each layer
//
// The paper's second step: n_components descriptors of the trunk's local features F, which equation (1) aggregates. 16 bits would round
// the map to three digits, so it comes in two parts of 16 bits, high and low, multiplied by the same features.
//
// Shapes     of up to 4 layers, the grid's y: features (rows, channels) float16 or bfloat16, any row stride; matrix (2, components,
//            channels) in their type, the high parts and then the low. offset (layers, components) float32; out (rows, layers *
//            components) float32, any row stride.
// Numbers    products on the tensor cores (mma.sync m16n8k16, sm_80 and newer) into one float32 sum of both parts; the offset is
//            added last. NaN and infinities go where products take them.
// Repeats    the same bits at every run, and for a row whatever stands beside it.
//
// Versions   256 rows x 64 components a block, a warp 32 rows: the map passes through shared memory in two buffers of 64 components x 32
//            channels of both parts, features go from global memory to registers one step ahead. Blocks of one set of rows are
//            neighbours, so that their features come from memory once. What it takes the place of: cuBLAS's product with both parts
//            side by side, then passes that add them and the offset (DeviceTransform without the kernel).
// Time       missing: no version has run on a GPU.
// Bound      modelled, at 512 channels, 64 components and 196 rows: 201 kB read, 50 kB written, 25.7 MFLOP an image: the tensor cores,
//            if mma.sync reaches 60% of their rate, and memory take alike.
// Ideas      wgmma on sm_90a; descriptors that go on to assign_vlad in shared memory (196 x 64 floats are 50 kB).
//
// Macros     those of element.cuh, but ELEMENT_FLOAT32.
#include "element.cuh"
#include "fragment.cuh"

constexpr int THREADS = 256;
constexpr int MIN_BLOCKS = VECTOR == 8 ? 2 : 1;  // addressing of single elements takes more registers
constexpr int WARP_ROWS = 32;
constexpr int TILE_ROWS = THREADS / 32 * WARP_ROWS;
constexpr int TILE_COMPONENTS = 64;
constexpr int TILE_DEPTH = 32;  // 64 bytes: two rows of a tile touch all 32 banks once, so no padding lies between them
constexpr int SUBTILES = TILE_COMPONENTS / 8;
constexpr int PARTS = 2;
static_assert(TILE_COMPONENTS * TILE_DEPTH == 8 * THREADS, "a thread brings one fragment of each part");

struct __align__(16) Tiles {
    element parts[PARTS][TILE_COMPONENTS][TILE_DEPTH];
};

// One step's operands on their way to shared memory and to the tensor cores.
struct Step {
    Fragment parts[PARTS];
    Fragment x[4];

    __device__ __forceinline__ void load(
        const element* features,  // the lane's first row of four, 8 apart
        long long row_stride, int rows_left,
        const element* matrix,  // from the tile's first component on
        long long part_stride, int components_left, int channels, int k0) {
        const int k = k0 + threadIdx.x % 4 * 8, component = threadIdx.x / 4;
#pragma unroll
        for (int part = 0; part < PARTS; part++)
            parts[part] = load_fragment(component < components_left, matrix + part * part_stride + component * channels, k, channels);
#pragma unroll
        for (int r = 0; r < 4; r++) x[r] = load_fragment(8 * r < rows_left, features + 8 * r * row_stride, k, channels);
    }
};

// What one block reads of.
struct Layer {
    const element* features;  // (rows, channels)
    long long row_stride;
    int channels;
    const element* matrix;  // (2, components, channels)
};

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) affine_map(
    const element* __restrict__ features0, const element* __restrict__ features1, const element* __restrict__ features2,
    const element* __restrict__ features3, long long row_stride0, long long row_stride1, long long row_stride2, long long row_stride3,
    int channels0, int channels1, int channels2, int channels3, const element* __restrict__ matrix0, const element* __restrict__ matrix1,
    const element* __restrict__ matrix2, const element* __restrict__ matrix3,
    const float* __restrict__ offset,  // (layers, components)
    long long rows, int components,
    float* __restrict__ out,  // (rows, layers, components)
    long long out_stride) {
    __shared__ Tiles tiles[2];
    Layer layer = {features0, row_stride0, channels0, matrix0};
    if (blockIdx.y == 1) layer = {features1, row_stride1, channels1, matrix1};
    if (blockIdx.y == 2) layer = {features2, row_stride2, channels2, matrix2};
    if (blockIdx.y == 3) layer = {features3, row_stride3, channels3, matrix3};
    const int channels = layer.channels;
    offset += blockIdx.y * components;
    out += blockIdx.y * components;
    const int column_tiles = (components + TILE_COMPONENTS - 1) / TILE_COMPONENTS;
    const int component0 = blockIdx.x % column_tiles * TILE_COMPONENTS;
    const int group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const long long first = static_cast<long long>(blockIdx.x / column_tiles) * TILE_ROWS + threadIdx.x / 32 * WARP_ROWS + group;
    const int rows_left = static_cast<int>(min(rows - first, static_cast<long long>(WARP_ROWS)));
    const long long row_stride = layer.row_stride;
    const element* const features = layer.features + first * row_stride;
    const element* const matrix = layer.matrix + static_cast<long long>(component0) * channels;
    const long long part_stride = static_cast<long long>(components) * channels;

    float sums[2][SUBTILES][4] = {};
    Step step;
    step.load(features, row_stride, rows_left, matrix, part_stride, components - component0, channels, 0);
    int buffer = 0;
    for (int k0 = 0; k0 < channels; k0 += TILE_DEPTH) {
#pragma unroll
        for (int part = 0; part < PARTS; part++)
            *reinterpret_cast<Fragment*>(&tiles[buffer].parts[part][threadIdx.x / 4][8 * t]) = step.parts[part];
        const Fragment x[4] = {step.x[0], step.x[1], step.x[2], step.x[3]};
        __syncthreads();  // one a step: the other buffer was read before the last one
        if (k0 + TILE_DEPTH < channels)
            step.load(features, row_stride, rows_left, matrix, part_stride, components - component0, channels, k0 + TILE_DEPTH);
#pragma unroll
        for (int s = 0; s < SUBTILES; s++)
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                const Fragment c = *reinterpret_cast<const Fragment*>(&tiles[buffer].parts[part][s * 8 + group][8 * t]);
#pragma unroll
                for (int pair = 0; pair < 4; pair += 2) {
                    const unsigned b[2] = {c.value[pair], c.value[pair + 1]};
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const Fragment &upper = x[2 * half], &lower = x[2 * half + 1];
                        const unsigned a[4] = {upper.value[pair], lower.value[pair], upper.value[pair + 1], lower.value[pair + 1]};
                        mma_m16n8k16(sums[half][s], a, b);
                    }
                }
            }
        buffer ^= 1;
    }

#pragma unroll
    for (int r = 0; r < 4; r++) {
        if (8 * r >= rows_left) continue;
        float* const row = out + (first + 8 * r) * out_stride;
#pragma unroll
        for (int s = 0; s < SUBTILES; s++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int component = component0 + s * 8 + 2 * t + j;
                if (component < components) row[component] = sums[r / 2][s][r % 2 * 2 + j] + offset[component];
            }
    }
}
