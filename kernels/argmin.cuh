// The running minimum of the scores |c|^2 / 2 - x.c of one descriptor, and its exchange between lanes.
//
// Ties go to the lowest index: scores are offered in ascending order of centres and only a smaller one replaces, and between lanes
// equal scores compare by index. A score that is not finite wins for good: the row holds a NaN or an infinity (then every one of
// its scores is NaN or infinite) or is so large that a product overflows, and no centre can be called its nearest.
#pragma once

#define LARGEST __int_as_float(0x7f7fffff)
#define INFINITE __int_as_float(0x7f800000)

// Stands for |c|^2 / 2 of centres past the last, which are zeros in the tiles: finite, and never below a real score of lower index.
#define PADDING_HALF_NORM LARGEST

struct Nearest {
    float score;
    int index;
};

__device__ __forceinline__ Nearest nothing_yet() { return {INFINITE, -1}; }

__device__ __forceinline__ void offer(Nearest& best, float score, int center) {
    if (!(fabsf(score) <= LARGEST)) score = -INFINITE;
    if (score < best.score) best = {score, center};
}

__device__ __forceinline__ Nearest lower(const Nearest& a, const Nearest& b) {
    // No || and no choice between structures: they become branches.
    const bool second = (b.score < a.score) | ((b.score == a.score) & (b.index < a.index));
    return {second ? b.score : a.score, second ? b.index : a.index};
}

__device__ __forceinline__ int index_or_invalid(const Nearest& best) { return fabsf(best.score) <= LARGEST ? best.index : -1; }

// |x - c|^2 from the score. The difference of rounded terms can fall below zero, a distance cannot.
__device__ __forceinline__ float squared_distance(const Nearest& best, float squared_norm) {
    if (index_or_invalid(best) < 0) return __int_as_float(0x7fffffff);  // NaN
    return fmaxf(fmaf(2.0f, best.score, squared_norm), 0.0f);
}

// Reduces ROWS minima over LANES lanes, STRIDE apart, of which the caller is number `lane`. At each step a lane keeps the half of the
// rows that its lane bit names and hands the other half over: 16 shuffles for 8 rows over 16 lanes, where a full butterfly takes 64.
// Returns the minimum of row lane / (LANES / ROWS).
template <int ROWS, int LANES, int STRIDE = 1>
__device__ __forceinline__ Nearest reduce_rows(Nearest (&best)[ROWS], int lane) {
#pragma unroll
    for (int offset = LANES / 2, half = ROWS / 2; offset > 0; offset /= 2, half /= 2) {
        const bool upper = lane & offset;
#pragma unroll
        for (int i = 0; i < max(half, 1); i++) {
            const Nearest first = best[i], second = best[i + half];
            const bool keep_second = half > 0 && upper, give_second = half > 0 && !upper;
            const Nearest kept = {keep_second ? second.score : first.score, keep_second ? second.index : first.index};
            const Nearest taken = {
                __shfl_xor_sync(ALL_LANES, give_second ? second.score : first.score, offset * STRIDE),
                __shfl_xor_sync(ALL_LANES, give_second ? second.index : first.index, offset * STRIDE)};
            best[i] = lower(kept, taken);
        }
    }
    return best[0];
}
