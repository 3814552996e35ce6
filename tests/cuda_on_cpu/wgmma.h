// wgmma.mma_async.m64n128k16 with A in registers and B in shared memory, by its fragment layouts and matrix descriptors (PTX ISA).
//
// A and D of a warp are laid out as those of mma.h, D going on by 8 columns every 4 registers. A warp's rows depend on no other warp's,
// so each works for itself. Nothing is multiplied before wgmma_wait: until then D holds NaN, and B is read when it comes to it.
// Aborts on a product that no wgmma_fence precedes, or no wgmma_fence_shared after the thread wrote to shared memory, that is waited for
// without wgmma_commit, or whose descriptor asks for more than is emulated.
#pragma once

namespace cuda_on_cpu {

constexpr unsigned SHARED_BASE = 1024;  // where dynamic shared memory begins in the window of shared addresses

static void refuse_wgmma(const char* what) {
    fprintf(stderr, "cuda_on_cpu: wgmma: %s\n", what);
    abort();
}

static inline void wgmma_fence_shared() { block->current->shared_fenced = true; }

static inline void wgmma_fence() { block->current->fenced = true; }

static inline void wgmma_commit() {
    block->current->groups++;
    block->current->fenced = false;
}

template <class ToFloat>
static inline void wgmma_m64n128k16(float (&d)[64], const unsigned (&a)[4], unsigned long long b, ToFloat to_float) {
    Fiber* fiber = block->current;
    if (!fiber->fenced) refuse_wgmma("no fence before the product");
    if (!fiber->shared_fenced) refuse_wgmma("shared memory was not made visible by fence.proxy.async");
    if (b >> 46) refuse_wgmma("a swizzled layout or a base offset, which are not emulated");
    Product product{d, {}, {}, b, to_float, fiber->groups, false};
    for (const Product& before : fiber->products) {
        if (before.d == d && before.group != fiber->groups) refuse_wgmma("sums of a group that was not waited for");
        product.continues |= before.d == d;
    }
    memcpy(product.a, a, sizeof product.a);
    memcpy(product.start, d, sizeof product.start);
    for (float& value : d) value = std::nanf("");
    fiber->products.push_back(product);
}

static inline void multiply_product(float* d, const Product& product) {
    struct Registers {
        unsigned a[4];
    } mine;
    memcpy(mine.a, product.a, sizeof mine.a);
    exchange(0xffffffffu, mine);
    Registers rows[4];
    const unsigned group = lane() / 4, t = lane() % 4;
    for (unsigned i = 0; i < 4; i++) rows[i] = shown_by<Registers>(group * 4 + i);
    const unsigned long long b = product.b;
    const unsigned address = unsigned(b % (1u << 14)) * 16, along_k = unsigned(b >> 16) % (1u << 14) * 16;
    const unsigned along_n = unsigned(b >> 32) % (1u << 14) * 16;
    for (unsigned k = 0; k < 16; k++)
        for (unsigned n8 = 0; n8 < 16; n8++)
            for (unsigned column = 0; column < 2; column++) {
                const unsigned at = address + n8 * along_n + k / 8 * along_k + (2 * t + column) * 16 + k % 8 * 2 - SHARED_BASE;
                unsigned short bits;
                memcpy(&bits, block->dynamic_shared + at, sizeof bits);
                const float right = product.to_float(bits);
                for (unsigned half = 0; half < 2; half++) {
                    const unsigned both = rows[k % 8 / 2].a[k / 8 * 2 + half];
                    const float left = product.to_float((unsigned short)(both >> k % 2 * 16));
                    float& sum = d[4 * n8 + 2 * half + column];
                    sum = fmaf(left, right, sum);
                }
            }
}

static inline void wgmma_wait(float (&)[64]) {
    Fiber* fiber = block->current;
    const std::vector<Product> begun = std::move(fiber->products);
    fiber->products.clear();
    fiber->fenced = false;
    for (const Product& product : begun) {
        if (product.group == fiber->groups) refuse_wgmma("waits for a product that was not committed");
        if (!product.continues) memcpy(product.d, product.start, sizeof product.start);
        multiply_product(product.d, product);
    }
}

}  // namespace cuda_on_cpu

static inline size_t __cvta_generic_to_shared(const void* p) {
    return static_cast<const char*>(p) - cuda_on_cpu::block->dynamic_shared + cuda_on_cpu::SHARED_BASE;
}
