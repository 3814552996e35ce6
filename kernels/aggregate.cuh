// Residual aggregation of one image by one block: patches sorted by centre in shared memory, then summed in patch order.
//
// Patches pass in chunks. A chunk's patches set one bit each in a bitmap (centre x patch), by integer atomics, whose order cannot show.
// The rank of a patch among its centre's is the number of bits before its own, so the list that comes out is sorted by centre and then
// by patch, whatever the threads did first. A group of neighbouring lanes then owns a centre: each lane adds its dimensions over the
// centre's list, one after the other, with several loads in flight. Chunks go on where the last one stopped, so neither the chunk size
// nor the number of blocks that share an image changes a single bit.
#pragma once

enum Steps { MASS = 1, INTRA = 2, SIGNED_SQRT = 4, L2 = 8 };

constexpr int LOADS_IN_FLIGHT = VECTOR == 8 || !STAGED ? 4 : 6;  // what 64 registers hold
constexpr int OUT_VECTOR = VECTOR > 1 ? 4 : 1;

// What one block aggregates into: centres first .. first + count of one image.
struct Aggregation {
    int dims, count, chunk, words;
    double* squares;    // (count,)       sum of squares of each centre's block, for the L2 norm
    float* values;      // (count, dims)  sums, then the normalised residuals
    int* totals;        // (count,)       patches of each centre so far
    int* starts;        // (count + 1,)   where each centre's list begins in `order`
    unsigned* bitmap;   // (count, words)
    int* labels;        // (chunk,)       relative to the first centre; anything outside 0 .. count is passed over
    int* order;         // (chunk,)       patches, sorted by centre
};

// Hands out shared memory in 16-byte steps, as _Carver of plan.py counts it.
struct Carver {
    unsigned char* next;
    template <class T>
    __device__ __forceinline__ T* take(int count) {
        T* const here = reinterpret_cast<T*>(next);
        next += (static_cast<long long>(count) * sizeof(T) + 15) / 16 * 16;
        return here;
    }
};

// An odd number of words keeps the rows of the bitmap out of each other's shared memory banks.
__device__ __forceinline__ int bitmap_words(int chunk) { return (chunk + 31) / 32 | 1; }

// STAGED: `values` lies in shared memory and is written out once; else it is the output itself.
__device__ __forceinline__ Aggregation carve(Carver& carver, int centers_per_block, int count, int dims, int chunk, float* out) {
    Aggregation a;
    a.dims = dims;
    a.count = count;
    a.chunk = chunk;
    a.words = bitmap_words(chunk);
    a.squares = carver.take<double>(centers_per_block);
    a.values = STAGED ? carver.take<float>(centers_per_block * dims) : out;
    a.totals = carver.take<int>(centers_per_block);
    a.starts = carver.take<int>(centers_per_block + 1);
    a.bitmap = carver.take<unsigned>(centers_per_block * a.words);
    a.labels = carver.take<int>(chunk);
    a.order = carver.take<int>(chunk);
    return a;
}

// Empties the bitmap. A barrier must follow before any patch is marked.
__device__ __forceinline__ void clear_bitmap(const Aggregation& a) {
    for (int i = threadIdx.x; i < a.count * a.words; i += blockDim.x) a.bitmap[i] = 0;
}

// Enters one patch of the chunk into the bitmap. A barrier must follow the last.
__device__ __forceinline__ void mark_patch(const Aggregation& a, int patch, int label) {
    const bool here = 0 <= label && label < a.count;
    a.labels[patch] = here ? label : -1;
    if (here) atomicOr(&a.bitmap[label * a.words + patch / 32], 1u << patch % 32);
}

// Turns the bitmap into starts, totals and order. Ends with a barrier.
__device__ __forceinline__ void sort_patches(const Aggregation& a, int patches, bool first_chunk) {
    if (threadIdx.x < 32) {  // one warp scans the counts, 32 centres at a time
        const int lane = threadIdx.x;
        int before = 0;
        for (int center0 = 0; center0 < a.count; center0 += 32) {
            const int center = center0 + lane;
            int count = 0;
            if (center < a.count)
                for (int word = 0; word < a.words; word++) count += __popc(a.bitmap[center * a.words + word]);
            int through = count;  // inclusive sum over the lanes
#pragma unroll
            for (int offset = 1; offset < 32; offset *= 2) {
                const int left = __shfl_up_sync(ALL_LANES, through, offset);
                if (lane >= offset) through += left;
            }
            if (center < a.count) {
                a.starts[center] = before + through - count;
                a.totals[center] = (first_chunk ? 0 : a.totals[center]) + count;
            }
            before += __shfl_sync(ALL_LANES, through, 31);
        }
        if (lane == 0) a.starts[a.count] = before;
    }
    __syncthreads();
    for (int patch = threadIdx.x; patch < patches; patch += blockDim.x) {
        const int label = a.labels[patch];
        if (label < 0) continue;
        const unsigned* row = a.bitmap + label * a.words;
        int rank = __popc(row[patch / 32] & ((1u << patch % 32) - 1));
        for (int word = 0; word < patch / 32; word++) rank += __popc(row[word]);
        a.order[a.starts[label] + rank] = patch;
    }
    __syncthreads();
}

// values += the descriptors on each centre's list.
__device__ __forceinline__ void add_patches(
    const Aggregation& a,
    const element* descriptors,  // (patches, dims), the chunk's
    long long row_stride, bool first_chunk, int group) {
    const int lane = threadIdx.x % group;
    for (int center = threadIdx.x / group; center < a.count; center += blockDim.x / group) {
        const int begin = a.starts[center], end = a.starts[center + 1];
        for (int k = lane * VECTOR; k < a.dims; k += group * VECTOR) {
            float* const value = a.values + static_cast<long long>(center) * a.dims + k;
            Floats<VECTOR> sum = {};
            if (!first_chunk) sum.load(value);
            for (int i = begin; i < end; i += LOADS_IN_FLIGHT) {
                Vector x[LOADS_IN_FLIGHT];
#pragma unroll
                for (int u = 0; u < LOADS_IN_FLIGHT; u++)
                    if (i + u < end) x[u] = *reinterpret_cast<const Vector*>(descriptors + a.order[i + u] * row_stride + k);
#pragma unroll
                for (int u = 0; u < LOADS_IN_FLIGHT; u++)
                    if (i + u < end)
#pragma unroll
                        for (int j = 0; j < VECTOR; j++) sum.value[j] += component(x[u], j);
            }
            sum.store(value);
        }
    }
}

// Sum over a group of lanes, the same bits in each.
__device__ __forceinline__ double sum_over_group(double value, int group) {
    const unsigned mask = group == 32 ? ALL_LANES : ((1u << group) - 1) << (threadIdx.x % 32 & ~(group - 1));
    for (int offset = group / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(mask, value, offset);
    return value;
}

// 1 / sqrt(squares), or 0 where there is nothing to scale. In float64 no finite vector over- or underflows.
__device__ __forceinline__ double inverse_norm(double squares) { return squares > 0.0 ? 1.0 / sqrt(squares) : 0.0; }

__device__ __forceinline__ Floats<VECTOR> load_center(const float* center) {
    Floats<VECTOR> c;
    c.load(center);
    return c;
}

#if !defined(ELEMENT_FLOAT32)
__device__ __forceinline__ Floats<VECTOR> load_center(const element* center) {
    const Vector bits = *reinterpret_cast<const Vector*>(center);
    Floats<VECTOR> c;
#pragma unroll
    for (int j = 0; j < VECTOR; j++) c.value[j] = component(bits, j);
    return c;
}
#endif

__device__ __forceinline__ float signed_sqrt_if(bool wanted, float v) { return wanted ? copysignf(sqrtf(fabsf(v)), v) : v; }

// Residuals and the normalisations that stay within a centre: mass, intra, signed square root. Each lane goes over the values that it
// wrote itself in add_patches, so no barrier stands between; one must follow before others read values or squares.
template <class Center>
__device__ __forceinline__ void finish_centers(
    const Aggregation& a,
    const Center* centers,  // (count, dims), the block's
    int group, int steps) {
    const int lane = threadIdx.x % group;
    for (int center = threadIdx.x / group; center < a.count; center += blockDim.x / group) {
        const float count = static_cast<float>(a.totals[center]);
        const long long first = static_cast<long long>(center) * a.dims;
        double squares = 0.0;
        for (int k = lane * VECTOR; k < a.dims; k += group * VECTOR) {
            const Floats<VECTOR> c = load_center(centers + first + k);
            Floats<VECTOR> v;
            v.load(a.values + first + k);
#pragma unroll
            for (int j = 0; j < VECTOR; j++) {
                v.value[j] = fmaf(-count, c.value[j], v.value[j]);
                if (steps & MASS && count > 0.0f) v.value[j] /= count;
                if (!(steps & INTRA)) v.value[j] = signed_sqrt_if(steps & SIGNED_SQRT, v.value[j]);
                squares += static_cast<double>(v.value[j]) * v.value[j];
            }
            v.store(a.values + first + k);
        }
        if (steps & INTRA) {
            const double scale = inverse_norm(sum_over_group(squares, group));
            squares = 0.0;
            for (int k = lane * VECTOR; k < a.dims; k += group * VECTOR) {
                Floats<VECTOR> v;
                v.load(a.values + first + k);
#pragma unroll
                for (int j = 0; j < VECTOR; j++) {
                    v.value[j] = signed_sqrt_if(steps & SIGNED_SQRT, static_cast<float>(v.value[j] * scale));
                    squares += static_cast<double>(v.value[j]) * v.value[j];
                }
                v.store(a.values + first + k);
            }
        }
        if (steps & L2) {
            squares = sum_over_group(squares, group);
            if (lane == 0) a.squares[center] = squares;
        }
    }
}

// The L2 scale of an image from its centres' sums of squares. Every warp computes it, in one order: no barrier, the same bits.
__device__ __forceinline__ double image_scale(const double* squares, int center_count) {
    double sum = 0.0;
    for (int center = threadIdx.x % 32; center < center_count; center += 32) sum += squares[center];
    return inverse_norm(sum_over_group(sum, 32));
}

// out = values * scale, or a copy without scaling.
__device__ __forceinline__ void write_values(const float* values, float* out, long long count, bool scaled, double scale) {
    for (long long i = static_cast<long long>(threadIdx.x) * OUT_VECTOR; i < count; i += static_cast<long long>(blockDim.x) * OUT_VECTOR) {
        Floats<OUT_VECTOR> v;
        v.load(values + i);
        if (scaled)
#pragma unroll
            for (int j = 0; j < OUT_VECTOR; j++) v.value[j] = static_cast<float>(v.value[j] * scale);
        v.store(out + i);
    }
}
