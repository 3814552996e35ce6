"""Changes that break the streaming version of nearest_center.cu: name → (what stands there, what the mutant has)."""

from __future__ import annotations

_BARRIER, _WARP_BARRIER = "__syncthreads();", "__syncwarp();"

CHANGES = {
    "half norms unbounded": ("first + i < center_count ? half_norms", "true ? half_norms"),
    "centres unbounded": ("load_fragment(\n            first + center < center_count,", "load_fragment(\n            true,"),
    "dimensions unbounded": ("k < dims ? k : 0", "k"),
    "rows unbounded": ("if (last < WARP_ROWS - 8)", "if (false)"),
    "writes unbounded": ("lane < WARP_ROWS && row < rows", "lane < WARP_ROWS"),
    "lanes without a row write": ("lane < WARP_ROWS && row < rows", "row < rows"),
    "highest index of a tie in a tile": ("high < low ? low_center + 8", "high <= low ? low_center + 8"),
    "highest index of a tie between tiles": ("if (score < best[n][j])", "if (score <= best[n][j])"),
    "highest index of a tie between lanes": ("min(nearest.index, four", "max(nearest.index % INT_LARGEST, four"),
    "low score not finite is not noticed": ("check[n][j] = fmaf(low, 0.0f, check[n][j]);", ""),
    "high score not finite is not noticed": ("check[n][j] = fmaf(high, 0.0f, check[n][j]);", ""),
    "a row that is not finite spreads": ("if (check[n][j] != 0.0f) best", "if (checks != 0.0f) best"),
    "signs kept": (
        "operands[j / 2][lane].value[j % 2 * 2 + half] = c.value[j] ^ BOTH_SIGNS",
        "operands[j / 2][lane].value[j % 2 * 2 + half] = c.value[j]",
    ),
    "rows of an operand swapped": (".value[j % 2 * 2 + half]", ".value[j % 2 * 2 + 1 - half]"),
    "no second step": ("row0 += step, lane_rows", "row0 += rows, lane_rows"),
    "second step on the first rows": ("lane_rows += step * row_stride", "lane_rows += 0"),
    "no barrier before the products": (f"dims);\n                {_BARRIER}", "dims);"),
    "minima read before they are written": (f"{_WARP_BARRIER}\n        Floats<8>", "Floats<8>"),
}

SCREEN_CHANGES = {
    "low halves of centres left out": ("mma_m16n8k16(scores[n], low.value, {x[2 * h], x[2 * h + 1]});", ""),
    "low halves of rows left out": ("mma_m16n8k16(scores[n], high.value, {rest[2 * h], rest[2 * h + 1]});", ""),
    "second of a pair forgotten": ("fminf(second[n][j], fmaxf(low, high))", "second[n][j]"),
    "second is the first once": ("fmaxf(best[n][j], score));", "INFINITE);"),
    "second of other lanes forgotten": ("fmaxf(nearest.score, other.score));", "INFINITE);"),
    "bound without what it grows by": ("16.0f * (x * c + largest_half_norm)", "x + c"),
    "no bound": ("> 2.0f * error_bound(exchange.squares[row], largest_half_norm, dims)", "> 0.0f"),
    "one open row a warp": ("left &= left - 1) {\n            const int held", "left = 0) {\n            const int held"),
    "open rows lose their result": ("if (lane == held) nearest = exact;", ""),
    "score of the screening in the distance": ("if (!open) nearest.score", "if (false) nearest.score"),
    "rows unbounded": ("min(n * 8LL, last)", "n * 8LL"),
}

WGMMA_CHANGES = {
    "half norms unbounded": ("first + i < center_count ? half_norms", "true ? half_norms"),
    "half norms of one row": ("start[0] = start[2] = first + i", "start[0] = first + i"),
    "centres unbounded": ("load_fragment(\n            first + center < center_count,", "load_fragment(\n            true,"),
    "dimensions unbounded": ("k < dims ? k : 0", "k"),
    "rows unbounded": ("min(first + 8 * half, rows - 1)", "(first + 8 * half)"),
    "writes unbounded": ("lane % 2 == 0 && row < rows", "lane % 2 == 0"),
    "two lanes write a row": ("lane % 2 == 0 && row < rows", "row < rows"),
    "highest index of a tie in a pair": ("low_of_pair != best[half]", "low_of_pair == best[half]"),
    "highest index of a tie in a tile": ("if (score < best) first", "if (score <= best) first"),
    "highest lane of a tie": ("b.index < a.index", "b.index > a.index"),
    "low score not finite is not noticed": ("check[half] = fmaf(low, 0.0f, check[half]);", ""),
    "high score not finite is not noticed": ("check[half] = fmaf(high, 0.0f, check[half]);", ""),
    "signs kept": (".value[t] = c.value[j] ^ BOTH_SIGNS", ".value[t] = c.value[j]"),
    "halves of an operand swapped": (".center[place / 8][j % 2]", ".center[place / 8][1 - j % 2]"),
    "rows of an operand swapped": ("{low.value[2 * h], high.value[2 * h]", "{high.value[2 * h], low.value[2 * h]"),
    "strides of the descriptor swapped": ("along_dims << 16 | along_centers << 32", "along_centers << 16 | along_dims << 32"),
    "no second step": ("for (; row0 < rows; row0 += step) {\n        if constexpr (AHEAD)", "for (; row0 < 0; row0 += step) {\n"),
    "second step on the first rows": ("x = next;", "x = x;"),
    "no barrier before the products": (f"dims);\n                {_BARRIER}", "dims);"),
    "shared memory not made visible": ("wgmma_fence_shared();\n}", "}"),
    "registers not made visible": ("    wgmma_fence();\n", ""),
    "scores read before they are there": ("wgmma_wait(scores);", ""),
    "products not committed": ("    wgmma_commit();\n", ""),
}

# Those that only a codebook larger than shared memory shows.
CHANGES_IN_PARTS = {
    "no barrier before the next part": (f"{_BARRIER}\n                lay_out", "lay_out"),
    "the first part in every one's place": ("laid_out = tiles <= part_tiles;", "laid_out = true;"),
}
