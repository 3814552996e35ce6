// Runs a grid: blocks over OS threads, and in a block the fibers in an order drawn from a seed.
#pragma once
#include <atomic>
#include <link.h>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

namespace cuda_on_cpu {

constexpr int POISON = 0xA5;  // as float: -2.9e-16, as int: large and negative
constexpr size_t PAGE_BYTES = 4096;

struct Random {
    uint64_t state;
    unsigned below(unsigned limit) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return unsigned((state >> 33) % limit);
    }
};

// Seed 0 is the natural order, 1 the reverse, others a random one: a program whose barriers are right cannot tell them apart.
static inline void draw_order(std::vector<unsigned>& order, unsigned count, unsigned seed, Random& random) {
    order.resize(count);
    for (unsigned i = 0; i < count; i++) order[i] = seed == 1 ? count - 1 - i : i;
    if (seed > 1)
        for (unsigned i = count; i > 1; i--) std::swap(order[i - 1], order[random.below(i)]);
}

// Lets go of lanes that wait in a warp-level exchange once all lanes of its mask are there (or have exited).
static inline bool release_warp(unsigned first, unsigned last, Warp& warp) {
    Fiber* fibers = block->fibers;
    bool released = false;
    unsigned exited = 0;
    for (unsigned i = first; i < first + 32; i++)
        if (i >= last || fibers[i].done) exited |= 1u << (i - first);
    for (unsigned i = first; i < last; i++) {
        if (fibers[i].done || fibers[i].wait != Wait::warp) continue;
        const unsigned mask = fibers[i].mask;
        if (!((mask >> (i - first)) & 1)) {
            fprintf(stderr, "cuda_on_cpu: lane %u calls a *_sync function with mask %08x, which leaves it out\n", i - first, mask);
            abort();
        }
        unsigned here = 0;
        for (unsigned j = first; j < last; j++)
            if (!fibers[j].done && fibers[j].wait == Wait::warp && fibers[j].mask == mask) here |= 1u << (j - first);
        if (((here | exited) & mask) != mask) continue;
        for (unsigned j = first; j < last; j++)
            if ((here >> (j - first)) & 1) {
                memcpy(warp.settled[j - first], warp.shown[j - first], SLOT_BYTES);
                fibers[j].wait = Wait::none;
            }
        released = true;
    }
    return released;
}

static inline void run_block(unsigned seed) {
    const unsigned threads = block->threads, warp_count = block->warp_count;
    Random random{seed * 0x9E3779B97F4A7C15u + block->index.x + 7919u * block->index.y};
    std::vector<unsigned> warp_order, lane_order;
    for (unsigned i = 0; i < threads; i++) start_fiber(block->fibers[i]);
    unsigned left = threads;
    while (left) {
        bool progress = false;
        draw_order(warp_order, warp_count, seed, random);
        draw_order(lane_order, 32, seed, random);
        for (unsigned w : warp_order) {
            const unsigned first = w * 32, last = min(threads, first + 32);
            do {
                for (unsigned lane : lane_order) {
                    if (first + lane >= last) continue;
                    Fiber& fiber = block->fibers[first + lane];
                    if (fiber.done || fiber.wait != Wait::none) continue;
                    resume_fiber(fiber);
                    progress = true;
                    if (fiber.done) left--;
                }
            } while (release_warp(first, last, block->warps[w]));
        }
        unsigned at_barrier = 0;
        for (unsigned i = 0; i < threads; i++)
            if (!block->fibers[i].done && block->fibers[i].wait == Wait::block) at_barrier++;
        if (at_barrier && at_barrier == left) {
            for (unsigned i = 0; i < threads; i++) block->fibers[i].wait = Wait::none;
            progress = true;
        }
        if (!progress) {
            fprintf(stderr, "cuda_on_cpu: deadlock in block (%u, %u): a __syncthreads or *_sync that not all threads reach\n",
                    block->index.x, block->index.y);
            abort();
        }
    }
}

// Static __shared__ arrays are thread_local, so this library's thread-local segment is theirs (and `block`, which is put back).
static inline void poison_static_shared() {
    Block* const kept = block;
    dl_iterate_phdr(
        [](dl_phdr_info* library, size_t, void* mark) {
            const uintptr_t address = reinterpret_cast<uintptr_t>(mark);
            bool ours = false;
            for (int i = 0; i < library->dlpi_phnum; i++) {
                const auto& segment = library->dlpi_phdr[i];
                const uintptr_t start = library->dlpi_addr + segment.p_vaddr;
                ours |= segment.p_type == PT_LOAD && start <= address && address < start + segment.p_memsz;
            }
            if (!ours) return 0;
            for (int i = 0; i < library->dlpi_phnum; i++)
                if (library->dlpi_phdr[i].p_type == PT_TLS) memset(library->dlpi_tls_data, POISON, library->dlpi_phdr[i].p_memsz);
            return 1;
        },
        reinterpret_cast<void*>(&run_block));
    block = kept;
}

static inline void* map_pages(size_t bytes) {
    void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) {
        perror("cuda_on_cpu: mmap");
        abort();
    }
    return pages;
}

// Dynamic shared memory that ends at a page no one may touch, so that the first byte past it faults.
struct GuardedShared {
    size_t mapped, bytes;
    char *pages, *begin;
    explicit GuardedShared(size_t requested) {
        bytes = (requested + 15) / 16 * 16;
        mapped = (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
        pages = static_cast<char*>(map_pages(mapped + PAGE_BYTES));
        mprotect(pages + mapped, PAGE_BYTES, PROT_NONE);
        begin = pages + mapped - bytes;
    }
    ~GuardedShared() { munmap(pages, mapped + PAGE_BYTES); }
};

template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<typename std::remove_cv<A>::type*>(arguments[I])...);
}

template <class... A>
static void launch(void (*kernel)(A...), dim3 grid, dim3 size, size_t shared_bytes, void** arguments, int workers, unsigned seed) {
    struct Call {
        void (*kernel)(A...);
        void** arguments;
    } kernel_call{kernel, arguments};
    const size_t blocks = size_t(grid.x) * grid.y * grid.z;
    const unsigned threads = size.x * size.y * size.z;
    std::atomic<size_t> next{0};
    auto work = [&] {
        std::vector<Fiber> fibers(threads);
        std::vector<Warp> warps((threads + 31) / 32);
        GuardedShared shared(shared_bytes);
        char* stacks = static_cast<char*>(map_pages(threads * STACK_BYTES));
        Block mine{};
        mine.fibers = fibers.data();
        mine.warps = warps.data();
        mine.threads = threads;
        mine.warp_count = unsigned(warps.size());
        mine.size = size;
        mine.grid = grid;
        mine.dynamic_shared = shared.begin;
        mine.run = [](void* argument) {
            Call* c = static_cast<Call*>(argument);
            call(c->kernel, c->arguments, std::index_sequence_for<A...>{});
        };
        mine.run_argument = &kernel_call;
        for (unsigned i = 0; i < threads; i++) {
            fibers[i].thread = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
            fibers[i].lane = i % 32;
            fibers[i].warp = i / 32;
            fibers[i].stack = stacks + i * STACK_BYTES;
        }
        block = &mine;
        for (size_t b; (b = next++) < blocks;) {
            mine.index = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / (size_t(grid.x) * grid.y))};
            memset(shared.begin, POISON, shared.bytes);
            poison_static_shared();
            run_block(seed);
        }
        munmap(stacks, threads * STACK_BYTES);
        block = nullptr;
    };
    std::vector<std::thread> others;
    for (int i = 1; i < workers && size_t(i) < blocks; i++) others.emplace_back(work);
    work();
    for (auto& other : others) other.join();
}

}  // namespace cuda_on_cpu

static inline void __syncthreads() {
    cuda_on_cpu::block->current->wait = cuda_on_cpu::Wait::block;
    cuda_on_cpu::leave_fiber();
}
