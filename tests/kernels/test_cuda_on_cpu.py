"""What the CPU runner of CUDA kernels promises: the device's semantics, and a failure where a program leaves them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cuda_on_cpu import Guarded, HostRawKernel, compiler, run_isolated

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler (g++, or the one named in CXX)")

KERNELS = r"""
extern "C" __global__ void block_sums(const float* x, int count, float* sums) {
    __shared__ float warp_sums[32];
    extern __shared__ float staged[];
    float sum = 0.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) sum += x[i];
    for (int offset = 16; offset; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    staged[threadIdx.x] = threadIdx.x < blockDim.x / 32 ? warp_sums[threadIdx.x] : 0.0f;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int i = 0; i < blockDim.x / 32; i++) sums[blockIdx.x] += staged[i];
}
extern "C" __global__ void shifted(int* out) {  // a barrier is missing between the write and the neighbour's read
    __shared__ int values[64];
    values[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = values[(threadIdx.x + 1) % 64];
}
extern "C" __global__ void shared_as_found(int* out) {
    __shared__ int values[64];
    extern __shared__ int dynamic_values[];
    out[threadIdx.x] = values[threadIdx.x];
    out[64 + threadIdx.x] = dynamic_values[threadIdx.x];
    values[threadIdx.x] = dynamic_values[threadIdx.x] = 1;
}
extern "C" __global__ void divergent_barrier(int* out) {
    if (threadIdx.x < 40) __syncthreads();
    else if (threadIdx.x < 50) __syncwarp();
    out[threadIdx.x] = 1;
}
extern "C" __global__ void wrong_mask(int* out) { out[threadIdx.x] = __shfl_sync(threadIdx.x < 40 ? 0xffffffffu : 0xffu, 1, 0); }
extern "C" __global__ void read_at(const float* x, int at, float* out) { out[0] = x[at]; }
extern "C" __global__ void write_at(float* x, int at) { x[at] = 1.0f; }
extern "C" __global__ void read_vector(const float* x, float* out) { out[0] = reinterpret_cast<const float4*>(x)->y; }
extern "C" __global__ void read_dynamic(int at, float* out) {
    extern __shared__ float values[];
    out[0] = values[at];
}
extern "C" __global__ void read_static(int at, float* out) {
    __shared__ float values[4];
    out[0] = values[at];
}
extern "C" __global__ void votes(unsigned* out) {
    out[threadIdx.x] = __ballot_sync(0xffffffffu, threadIdx.x % 3 == 0);
    out[32 + threadIdx.x] = __shfl_xor_sync(0xffu << (threadIdx.x & ~7), threadIdx.x, 5);
    out[64 + threadIdx.x] = __shfl_up_sync(0xffffffffu, threadIdx.x, 3);
    atomicOr(out + 96, 1u << threadIdx.x);
}
extern "C" __global__ void to_16_bits(const float* x, int count, unsigned short* half, unsigned short* bfloat16) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        half[i] = __half_as_ushort(__float2half_rn(x[i]));
        bfloat16[i] = __bfloat16_as_ushort(__float2bfloat16_rn(x[i]));
    }
}
extern "C" __global__ void from_16_bits(float* half, float* bfloat16) {
    for (int i = threadIdx.x; i < 65536; i += blockDim.x) {
        half[i] = __half2float(__ushort_as_half(i));
        bfloat16[i] = __bfloat162float(__ushort_as_bfloat16(i));
    }
}
extern "C" __global__ void multiply_16x8x16(const unsigned short* a, const unsigned short* b, float* d) {
    const int group = threadIdx.x / 4, t = threadIdx.x % 4;
    unsigned fragment_a[4], fragment_b[2];
    for (int i = 0; i < 4; i++) {
        const unsigned short* from = a + (group + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
        fragment_a[i] = from[0] | unsigned(from[1]) << 16;
    }
    for (int i = 0; i < 2; i++) fragment_b[i] = b[(2 * t + i * 8) * 8 + group] | unsigned(b[(2 * t + 1 + i * 8) * 8 + group]) << 16;
    float sums[4] = {0, 0, 0, 0};
    cuda_on_cpu::mma_m16n8k16(sums, fragment_a, fragment_b, [](unsigned short x) { return __half2float(__ushort_as_half(x)); });
    for (int i = 0; i < 4; i++) d[(group + i / 2 * 8) * 8 + 2 * t + i % 2] = sums[i];
}
"""


def launch(
    name: str, threads: int, *args: object, grid: int = 1, shared: int = 0, seed: int = 0, options: tuple[str, ...] = ()
) -> None:
    HostRawKernel(KERNELS, name, options)((grid,), (threads,), args, shared_mem=shared, seed=seed)


def guarded_launch(name: str, *numbers: int) -> None:
    """Launch on one thread over 5 guarded floats; called in a process of its own."""
    x, out = Guarded(np.arange(5, dtype=np.float32)), np.zeros(1, np.float32)
    shared = 64 if name == "read_dynamic" else 0
    arrays = [] if name in ("read_dynamic", "read_static") else [x.array]
    outputs = [] if name == "write_at" else [out]
    launch(name, 1, *arrays, *map(np.int32, numbers), *outputs, shared=shared)
    x.check()


def launch_on_64_threads(name: str) -> None:
    """Called in a process of its own."""
    launch(name, 64, np.zeros(64, np.int32))


@pytest.mark.parametrize("options", [(), ("-DCUDA_ON_CPU_UCONTEXT",)], ids=["assembler", "ucontext"])
def test_blocks_warps_and_barriers(options: tuple[str, ...]) -> None:
    x = np.random.default_rng(0).integers(-9, 9, 10_007).astype(np.float32)
    for seed in range(4):
        sums = np.zeros(7, np.float32)
        launch("block_sums", 128, x, np.int32(len(x)), sums, grid=7, shared=128 * 4, seed=seed, options=options)
        assert sums.sum() == x.sum()


def test_a_missing_barrier_shows_in_some_order() -> None:
    expected = (np.arange(64) + 1) % 64
    right = []
    for seed in range(4):
        out = np.zeros(64, np.int32)
        launch("shifted", 64, out, seed=seed)
        right.append(np.array_equal(out, expected))
    assert not all(right)


def test_shared_memory_is_poisoned_for_every_block() -> None:
    out = np.zeros(128, np.int32)
    launch("shared_as_found", 64, out, grid=3, shared=256)
    assert (out == np.int32(-1515870811)).all()  # 0xA5A5A5A5


def test_warp_functions_and_atomics() -> None:
    out = np.zeros(97, np.uint32)
    launch("votes", 32, out, seed=3)
    lanes = np.arange(32)
    assert (out[:32] == sum(1 << lane for lane in range(0, 32, 3))).all()
    assert np.array_equal(out[32:64], lanes ^ 5)
    assert np.array_equal(out[64:96], np.where(lanes < 3, lanes, lanes - 3))
    assert out[96] == 0xFFFFFFFF


def test_16_bit_types_convert_as_numpy_and_torch_do() -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    halfway = (np.arange(65536, dtype=np.uint32) << 16) + 0x8000  # ties between two bfloat16 values
    half_ties = np.arange(0x38000000, 0x47800000, 0x1000, dtype=np.uint32)  # ties between two float16 values, and neighbours
    x = np.concatenate([bits, halfway, half_ties, half_ties + 1]).view(np.float32)
    half, bfloat16 = np.zeros(len(x), np.uint16), np.zeros(len(x), np.uint16)
    launch("to_16_bits", 32, x, np.int32(len(x)), half, bfloat16)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        expected = x.astype(np.float16)
    assert np.array_equal(half.view(np.float16), expected, equal_nan=True)
    ours, theirs = (torch.from_numpy(bfloat16.view(np.int16)).view(torch.bfloat16), torch.from_numpy(x).bfloat16())
    assert torch.equal(ours.isnan(), theirs.isnan()) and torch.equal(ours[~ours.isnan()], theirs[~ours.isnan()])

    from_half, from_bfloat16 = np.zeros(65536, np.float32), np.zeros(65536, np.float32)
    launch("from_16_bits", 32, from_half, from_bfloat16)
    all_bits = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(from_half, all_bits.view(np.float16).astype(np.float32), equal_nan=True)
    assert np.array_equal(from_bfloat16.view(np.uint32), all_bits.astype(np.uint32) << 16)


def test_mma_is_the_matrix_product() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(-9, 9, (16, 16)).astype(np.float16), rng.integers(-9, 9, (16, 8)).astype(np.float16)
    d = np.zeros((16, 8), np.float32)
    launch("multiply_16x8x16", 32, a.view(np.uint16), b.view(np.uint16), d, seed=2)
    assert np.array_equal(d, a.astype(np.float32) @ b.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        ("read_at", (5,), ""),
        ("write_at", (5,), ""),
        ("write_at", (-1,), "before the start"),
        ("read_vector", (), "misaligned"),
        ("read_dynamic", (16,), ""),
        ("read_static", (4,), "out of bounds"),
    ],
)
def test_accesses_out_of_bounds_or_alignment_fail(name: str, numbers: tuple[int, ...], message: str) -> None:
    status, output = run_isolated("test_cuda_on_cpu:guarded_launch", name, *numbers)
    assert status != 0 and message in output


def test_accesses_in_bounds_pass() -> None:
    for name, number in (("read_at", 4), ("write_at", 0), ("read_dynamic", 15), ("read_static", 3)):
        guarded_launch(name, number)


@pytest.mark.parametrize(("name", "message"), [("divergent_barrier", "deadlock"), ("wrong_mask", "leaves it out")])
def test_a_divergent_barrier_aborts_with_a_message(name: str, message: str) -> None:
    status, output = run_isolated("test_cuda_on_cpu:launch_on_64_threads", name)
    assert status < 0 and message in output


def test_python_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="argument 1 is a int"):
        launch("read_at", 1, np.zeros(1, np.float32), 0, np.zeros(1, np.float32))


def test_a_kernel_that_does_not_compile_says_why() -> None:
    with pytest.raises(RuntimeError, match="no_such_type"):
        HostRawKernel('extern "C" __global__ void broken(no_such_type x) {}', "broken")


def test_isolated_reports_status_and_output() -> None:
    assert run_isolated("os:getpid")[0] == 0
    assert run_isolated("sys:exit", 3)[0] == 3
    assert "no_such_function" in run_isolated("os:no_such_function")[1]
