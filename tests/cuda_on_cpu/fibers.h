// Fibers: the stacks on which the threads of one block take turns.
#pragma once
#include <sys/mman.h>
#ifdef CUDA_ON_CPU_UCONTEXT
#include <ucontext.h>
#endif
#include <vector>

namespace cuda_on_cpu {

constexpr size_t STACK_BYTES = 256 << 10;  // virtual: only touched pages take memory

enum class Wait { none, block, warp };

// A product of wgmma.h that has been begun.
struct Product {
    float* d;
    float start[64];  // what d held
    unsigned a[4];
    unsigned long long b;
    float (*to_float)(unsigned short);
    unsigned group;  // how many wgmma_commit came before
    bool continues;  // d holds the sums of one before
};

struct Fiber {
    uint3 thread;
    unsigned lane, warp;
    bool done;
    Wait wait;
    unsigned mask;  // lanes that take part in the warp-level exchange it waits in
    void* stack_pointer;
    char* stack;
    bool fenced, shared_fenced;
    unsigned groups;
    std::vector<Product> products;
#ifdef CUDA_ON_CPU_UCONTEXT
    ucontext_t context;
#endif
};

constexpr size_t SLOT_BYTES = 32;  // the most that one lane shows the others in one exchange (an mma operand: 24)

struct Warp {
    char shown[32][SLOT_BYTES];    // what the lanes have put up so far
    char settled[32][SLOT_BYTES];  // what they all see, once all have arrived
};

struct Block {
    Fiber* fibers;
    Warp* warps;
    unsigned threads, warp_count;
    Fiber* current;
    void* scheduler_stack;
    uint3 index;
    dim3 size, grid;
    char* dynamic_shared;
    void (*run)(void*);
    void* run_argument;
#ifdef CUDA_ON_CPU_UCONTEXT
    ucontext_t scheduler;
#endif
};

static thread_local Block* block;

#ifndef CUDA_ON_CPU_UCONTEXT
// Saves the callee-saved registers (System V x86-64) on the stack left and takes those of the stack entered; ucontext would also
// save the signal mask, a system call at every barrier.
extern "C" __attribute__((visibility("hidden"))) void cuda_on_cpu_switch(void** leave, void* enter);
asm(".text\n"
    ".hidden cuda_on_cpu_switch\n"
    ".globl cuda_on_cpu_switch\n"
    ".type cuda_on_cpu_switch,@function\n"
    "cuda_on_cpu_switch:\n"
    " pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
    " movq %rsp,(%rdi)\n"
    " movq %rsi,%rsp\n"
    " popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n"
    " ret\n");
#endif

static inline void leave_fiber() {
#ifdef CUDA_ON_CPU_UCONTEXT
    swapcontext(&block->current->context, &block->scheduler);
#else
    cuda_on_cpu_switch(&block->current->stack_pointer, block->scheduler_stack);
#endif
}

static void fiber_main() {
    block->run(block->run_argument);
    block->current->done = true;
    leave_fiber();
    abort();  // a finished fiber is never resumed
}

static inline void start_fiber(Fiber& fiber) {
    fiber.done = false;
    fiber.wait = Wait::none;
    fiber.fenced = fiber.shared_fenced = false;
    fiber.groups = 0;
    fiber.products.clear();
#ifdef CUDA_ON_CPU_UCONTEXT
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
#else
    void** top = reinterpret_cast<void**>(fiber.stack + STACK_BYTES);
    *--top = nullptr;  // keeps the stack 16-byte aligned at fiber_main's entry, as after a call
    *--top = reinterpret_cast<void*>(fiber_main);
    for (int saved_register = 0; saved_register < 6; saved_register++) *--top = nullptr;
    fiber.stack_pointer = top;
#endif
}

static inline void resume_fiber(Fiber& fiber) {
    block->current = &fiber;
#ifdef CUDA_ON_CPU_UCONTEXT
    swapcontext(&block->scheduler, &fiber.context);
#else
    cuda_on_cpu_switch(&block->scheduler_stack, fiber.stack_pointer);
#endif
}

}  // namespace cuda_on_cpu

#define threadIdx (cuda_on_cpu::block->current->thread)
#define blockIdx (cuda_on_cpu::block->index)
#define blockDim (cuda_on_cpu::block->size)
#define gridDim (cuda_on_cpu::block->grid)
