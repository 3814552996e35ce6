// The tensor cores' mma.sync.m16n8k16 with 16-bit operands and float32 accumulators, by its fragment layout (PTX ISA).
//
// With group = lane / 4 and t = lane % 4, a register holding two values:
//   a[0], a[1], a[2], a[3]: rows group, group + 8, group, group + 8; columns 2t and 2t + 1, the last two registers 8 further
//   b[0], b[1]: column group; rows 2t and 2t + 1, the last register 8 further
//   d[0], d[1] and d[2], d[3]: rows group and group + 8; columns 2t and 2t + 1
// The device does not state its order of additions; here k ascends, each step rounded once.
#pragma once

namespace cuda_on_cpu {

struct MmaOperands {
    unsigned a[4], b[2];
};

template <class ToFloat>
static inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], ToFloat to_float) {
    MmaOperands mine;
    memcpy(mine.a, a, sizeof a);
    memcpy(mine.b, b, sizeof b);
    exchange(0xffffffffu, mine);
    const unsigned group = lane() / 4, t = lane() % 4;
    for (unsigned k = 0; k < 16; k++) {
        const unsigned holder = k % 8 / 2, late = k / 8, shift = k % 2 * 16;
        const MmaOperands rows = shown_by<MmaOperands>(group * 4 + holder);
        for (unsigned column = 0; column < 2; column++) {
            const MmaOperands columns = shown_by<MmaOperands>((2 * t + column) * 4 + holder);
            const float right = to_float((unsigned short)(columns.b[late] >> shift));
            for (unsigned half = 0; half < 2; half++) {
                const float left = to_float((unsigned short)(rows.a[2 * late + half] >> shift));
                d[2 * half + column] = fmaf(left, right, d[2 * half + column]);
            }
        }
    }
}

}  // namespace cuda_on_cpu
