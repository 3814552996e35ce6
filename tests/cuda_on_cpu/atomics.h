// Atomics on global and shared memory (blocks may run on several OS threads).
#pragma once

namespace cuda_on_cpu {

template <class T, class Operation>
static inline T read_modify_write(T* address, Operation operation) {
    T before, after;
    __atomic_load(address, &before, __ATOMIC_SEQ_CST);
    do {
        after = operation(before);
    } while (!__atomic_compare_exchange(address, &before, &after, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return before;
}

}  // namespace cuda_on_cpu

template <class T>
static inline T atomicAdd(T* address, T value) {
    return cuda_on_cpu::read_modify_write(address, [value](T old) { return T(old + value); });
}
template <class T>
static inline T atomicMin(T* address, T value) {
    return cuda_on_cpu::read_modify_write(address, [value](T old) { return min(old, value); });
}
template <class T>
static inline T atomicMax(T* address, T value) {
    return cuda_on_cpu::read_modify_write(address, [value](T old) { return max(old, value); });
}
template <class T>
static inline T atomicOr(T* address, T value) {
    return cuda_on_cpu::read_modify_write(address, [value](T old) { return T(old | value); });
}
template <class T>
static inline T atomicCAS(T* address, T expected, T value) {
    __atomic_compare_exchange(address, &expected, &value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}
