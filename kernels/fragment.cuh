// What the tensor core versions share: a lane's piece of a row of 16-bit elements, and mma.sync m16n8k16 on two of its registers.
//
// A dot product does not mind in which order its dimensions come, so the fragments take them as they lie in memory: of every 32
// dimensions, lane t of a group of 4 owns 8t..8t+7 (one 16-byte load) and feeds 4 of them to each of two mma, on both sides alike.
#pragma once

// Eight consecutive elements of one row or centre: the lane's share of 32 dimensions, two of them a register.
typedef Pack<unsigned, 4> Fragment;

// Both versions turn the signs of the centres when they lay them out and start the sums at |c|^2 / 2: what comes out of the tensor
// cores is the score, and by the same additions in both.
constexpr unsigned BOTH_SIGNS = 0x80008000u;

// d += a x b, of float16 elements where those are the descriptors', else of bfloat16.
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if defined(CUDA_ON_CPU)
    cuda_on_cpu::mma_m16n8k16(d, a, b, [](unsigned short bits) {
#if defined(ELEMENT_FLOAT16)
        return to_float(bits);
#else
        return __uint_as_float(static_cast<unsigned>(bits) << 16);
#endif
    });
#elif !defined(ELEMENT_FLOAT16)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

#if !defined(ELEMENT_FLOAT32)
__device__ __forceinline__ Fragment load_fragment(bool inside, const element* row, int k, int dims) {
    if constexpr (VECTOR == 8) {
        return load_if<Fragment>(inside && k < dims, row + k);
    } else {
        Fragment fragment;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned low = load_if<element>(inside && k + 2 * i < dims, row + k + 2 * i);
            const unsigned high = load_if<element>(inside && k + 2 * i + 1 < dims, row + k + 2 * i + 1);
            fragment.value[i] = low | high << 16;
        }
        return fragment;
    }
}
#endif

// |x|^2 in ascending k, as the other versions add it. Read again, from L1: kept in registers through the main loop it would spill.
__device__ __forceinline__ float sum_of_squares(const element* row, int dims) {
    float sum = 0.0f;
    for (int k = 0; k < dims; k += VECTOR) {
        const Vector x = *reinterpret_cast<const Vector*>(row + k);
#pragma unroll
        for (int j = 0; j < VECTOR; j++) sum = fmaf(component(x, j), component(x, j), sum);
    }
    return sum;
}
