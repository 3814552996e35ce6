// Warp-level functions: every lane of the mask shows a value, waits for the others, and reads what it came for.
#pragma once

namespace cuda_on_cpu {

// Shows `mine` to the lanes of `mask`; afterwards shown_by(lane) is what each of them put up.
template <class T>
static inline void exchange(unsigned mask, const T& mine) {
    static_assert(sizeof(T) <= SLOT_BYTES, "raise SLOT_BYTES");
    Fiber* fiber = block->current;
    memcpy(block->warps[fiber->warp].shown[fiber->lane], &mine, sizeof mine);
    fiber->wait = Wait::warp;
    fiber->mask = mask;
    leave_fiber();
}

template <class T>
static inline T shown_by(unsigned lane) {
    T value;
    memcpy(&value, block->warps[block->current->warp].settled[lane], sizeof value);
    return value;
}

template <class T>
static inline T shuffle(unsigned mask, T value, unsigned source) {
    exchange(mask, value);
    if (!((mask >> source) & 1)) {
        fprintf(stderr, "cuda_on_cpu: a shuffle reads lane %u, which mask %08x leaves out\n", source, mask);
        abort();
    }
    return shown_by<T>(source);
}

static inline unsigned lane() { return block->current->lane; }
static inline unsigned segment(unsigned width) { return lane() & ~(width - 1); }

}  // namespace cuda_on_cpu

static inline void __syncwarp(unsigned mask = 0xffffffffu) { cuda_on_cpu::exchange(mask, 0); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <class T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    return cuda_on_cpu::shuffle(mask, value, cuda_on_cpu::segment(width) | (source & (width - 1)));
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const unsigned lane = cuda_on_cpu::lane();
    return cuda_on_cpu::shuffle(mask, value, (lane & (width - 1)) >= delta ? lane - delta : lane);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const unsigned lane = cuda_on_cpu::lane();
    return cuda_on_cpu::shuffle(mask, value, (lane & (width - 1)) + delta < unsigned(width) ? lane + delta : lane);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const unsigned lane = cuda_on_cpu::lane(), source = lane ^ bits;
    return cuda_on_cpu::shuffle(mask, value, (source & ~(width - 1)) == cuda_on_cpu::segment(width) ? source : lane);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    cuda_on_cpu::exchange<int>(mask, predicate != 0);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        if ((mask >> lane) & 1 && cuda_on_cpu::shown_by<int>(lane)) votes |= 1u << lane;
    return votes;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
