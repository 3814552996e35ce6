// The k first of each image's candidate words, by scores that are added in float64.
//
//   SCORE_L2      score = |x - v_w|^2, the lowest first; its root is given: the paper's equation (6)
//   SCORE_COSINE  the same of x and v on the unit sphere, given as 1 - cosine = max(0, 1 - (|x|^2 + 1 - score) / 2); for x = 0 the first
//                 k words, at 1
//   SCORE_LINEAR  score = -(x.v_w + b_w), the lowest first; the score is given
//
// Shapes     vectors (images, dims) float32, any row stride; word_vectors (words, dims) float32; bias (words,) float32, read by
//            SCORE_LINEAR alone; known (words,) int64, each word's number in the vocabulary; candidates (images, candidate_count) int64,
//            of distinct words in any order; index (images, k) int64; distance (images, k) float32; k <= candidate_count.
// Ties       the lowest word. A score that is not a number comes last.
// Numbers    differences, products and sums in float64: differences and products of float32 are exact there, but for the last bit of a
//            difference of numbers that lie 2^29 apart.
// Repeats    the same bits at every run, and for an image whatever it is batched with.
//
// Versions   a block an image, a warp a candidate: no gather of the candidates' vectors, which torch writes and reads four times over.
//            Every warp reads x again, through L1.
// Time       missing: no version has run on a GPU.
// Bound      memory, L2 for the most part: 4 bytes a candidate and dimension, for one float64 operation.
//
// Macros     SCORE_L2, SCORE_COSINE or SCORE_LINEAR.

constexpr int LANES = 32;
constexpr int LOADS_IN_FLIGHT = 4;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ double term(float x, float v) {
#if defined(SCORE_LINEAR)
    return static_cast<double>(x) * v;
#else
    const double difference = static_cast<double>(x) - v;
    return difference * difference;
#endif
}

// Sum over the warp, the same bits in each lane.
__device__ __forceinline__ double sum_over_warp(double value) {
    for (int offset = LANES / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

// Whether a score and its word come before another's.
__device__ __forceinline__ bool before(double score, long long word, double other, long long other_word) {
    const bool unknown = score != score, other_unknown = other != other;
    if (unknown != other_unknown) return other_unknown;
    return unknown || score == other ? word < other_word : score < other;
}

extern "C" __global__ void __launch_bounds__(512) rank_candidates(
    const float* __restrict__ vectors,  // (images, dims)
    long long row_stride, int dims,
    const float* __restrict__ word_vectors,      // (words, dims)
    const float* __restrict__ bias,              // (words,)
    const long long* __restrict__ known,         // (words,)
    const long long* __restrict__ candidates,    // (images, candidate_count)
    int candidate_count, int k,
    long long* __restrict__ index,   // (images, k)
    float* __restrict__ distance) {  // (images, k)
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    double* const scores = reinterpret_cast<double*>(shared_bytes);  // (candidate_count,)
    const long long image = blockIdx.x;
    const int lane = threadIdx.x % LANES;
    vectors += image * row_stride;
    candidates += image * candidate_count;
    index += image * k;
    distance += image * k;

    for (int i = threadIdx.x / LANES; i < candidate_count; i += blockDim.x / LANES) {
        const float* const word_vector = word_vectors + candidates[i] * dims;
        double sum = 0.0;
#pragma unroll LOADS_IN_FLIGHT
        for (int k0 = lane; k0 < dims; k0 += LANES) sum += term(vectors[k0], word_vector[k0]);
        sum = sum_over_warp(sum);
#if defined(SCORE_LINEAR)
        sum = -(sum + bias[candidates[i]]);
#endif
        if (lane == 0) scores[i] = sum;
    }
#if defined(SCORE_COSINE)
    double squared_norm = 0.0;  // in every warp
    for (int k0 = lane; k0 < dims; k0 += LANES) squared_norm += static_cast<double>(vectors[k0]) * vectors[k0];
    squared_norm = sum_over_warp(squared_norm);
#endif
    __syncthreads();

    for (int i = threadIdx.x; i < candidate_count; i += blockDim.x) {
        const double score = scores[i];
        const long long word = candidates[i];
        int rank = 0;
        for (int j = 0; j < candidate_count; j++) rank += before(scores[j], candidates[j], score, word);
        if (rank >= k) continue;
#if defined(SCORE_L2)
        index[rank] = known[word];
        distance[rank] = static_cast<float>(sqrt(score));
#elif defined(SCORE_COSINE)
        const bool blank = squared_norm == 0.0;  // at a right angle to every word: all tie, where rounding would choose
        index[rank] = known[blank ? rank : word];
        distance[rank] = blank ? 1.0f : static_cast<float>(fmax(1.0 - (squared_norm + 1.0 - score) / 2.0, 0.0));
#else
        index[rank] = known[word];
        distance[rank] = static_cast<float>(score);
#endif
    }
}
