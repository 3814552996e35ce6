"""Changes of the kernels of image vectors that kernel_checks.py must notice: what is replaced in the source, and by what."""

RANK_CHANGES = {
    "no barrier before scores are compared": ("#endif\n    __syncthreads();", "#endif"),
    "highest word of a tie": ("word < other_word", "word > other_word"),
    "what is not a number comes anywhere": ("if (unknown != other_unknown) return other_unknown;", ""),
    "what are no numbers tie": ("return unknown || score == other ?", "return score == other ?"),
    "rows without their stride": ("image * row_stride", "image * dims"),
    "the last dimensions left out": ("k0 < dims; k0 += LANES) sum", "k0 + LANES <= dims; k0 += LANES) sum"),
    "as many candidates as warps": ("i += blockDim.x / LANES", "i += candidate_count"),
    "ranks past k are written": ("if (rank >= k) continue;", ""),
    "a vector of zeros has neighbours": ("blank ? rank : word", "word"),
}

AFFINE_CHANGES = {
    "no barrier before a step is multiplied": ("__syncthreads();", ""),
    "one buffer": ("buffer ^= 1;", ""),
    "rows unbounded": ("load_fragment(8 * r < rows_left, ", "load_fragment(true, "),
    "components unbounded": ("load_fragment(component < components_left, ", "load_fragment(true, "),
    "channels unbounded": ("load_if<Fragment>(inside && k < dims", "load_if<Fragment>(inside"),
    "low parts are the high ones": ("matrix + part * part_stride", "matrix"),
    "first components in every tile": ("layer.matrix + static_cast<long long>(component0) * channels", "layer.matrix"),
    "every layer in the place of the first": ("out += blockIdx.y * components;", ""),
    "layers exchanged": ("{features1, row_stride1, channels1, matrix1}", "{features2, row_stride2, channels2, matrix2}"),
    "operands of two rows swapped": ("upper.value[pair], lower.value[pair], upper", "lower.value[pair], upper.value[pair], upper"),
    "writes components unbounded": ("if (component < components) row", "row"),
    "writes rows unbounded": ("if (8 * r >= rows_left) continue;", ""),
}

LAYER_CHANGES = {
    "descriptors of the first layer": ("image_stride + layer * dims", "image_stride"),
    "centres of the first layer": ("centers += layer * length;", ""),
    "every layer in the place of the first": ("* gridDim.y + layer;", "* gridDim.y;"),
    "low part of the whole value": ("bfloat16_bits(x - __uint_as_float", "bfloat16_bits(x - 0 * __uint_as_float"),
    "low parts a vector behind the high": ("out + apart + i", "out + count + i"),
}

UNIT_CHANGES = {
    "no barrier before the norm": ("squares;\n    __syncthreads();", "squares;"),
    "no barrier before products": ("* scale);\n    __syncthreads();", "* scale);"),
    "parts of rows left out": ("r < row_parts", "r < 1"),
    "parts of the matrix mistaken for images": (
        "(r * images + image) * column_parts + c",
        "(r * column_parts + c) * images + image",
    ),
    "zeros over zero": ("squares > 0.0 ? 1.0 / sqrt(squares) : squares", "1.0 / sqrt(squares)"),
    "dimensions past the threads left out": ("j < dims; j += THREADS) out", "j < THREADS; j += THREADS) out"),
    "rows of products a place behind": ("* (i - 1) / 2 - i", "* (i - 1) / 2"),
    "products past the quadratic": ("j < quadratic; j += 32", "j < quadratic + 1; j += 32"),
}
