"""The k first of candidate words, scored exactly where their vectors lie."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import checks
from .loader import launch
from .plan import Launch, cache_plans

#: Candidates of an image whose scores a block keeps; more are the caller's.
MOST_CANDIDATES = 1024
SCORES = ("l2", "cosine", "linear")
_WARPS = 16


def rank_candidates(
    vectors: Tensor,
    word_vectors: Tensor,
    known: Tensor,
    candidates: Tensor,
    k: int,
    *,
    score: str = "l2",
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k first of each image's candidate words, equation (6) of the paper, by scores added in float64; ties to the lowest word.

    ``l2`` ranks by ‖x − v_w‖, ``cosine`` by the same of vectors on the unit sphere, given as 1 − cosine similarity, ``linear`` by
    −(x·v_w + b_w); the lowest first. For ``cosine`` and x = 0 the first k words are given, at distance 1. What is not a number
    comes last.

    Args:
        vectors: (T, D) float32 on a CUDA device; rows contiguous, any stride between them. T = 0 is allowed.
        word_vectors: (W, D) float32, contiguous.
        known: (W,) int64, what stands for each word in the answer.
        candidates: (T, take) int64, contiguous: distinct words of each image in any order, not checked to lie in 0 … W − 1;
            take at most ``MOST_CANDIDATES``.
        k: 1 … take.
        score: ``l2``, ``cosine`` or ``linear``.
        bias: (W,) float32, contiguous, for ``linear``.

    Returns:
        index (T, k) int64 and distance (T, k) float32.

    Raises:
        TypeError: an argument of wrong type or dtype; the message names it.
        ValueError: an argument of wrong shape, stride or device; the message names it.
        DeviceError: the tensors are not on a CUDA device, or the device, driver or CuPy does not serve.
    """
    checks.check_rank_candidates(vectors, word_vectors, known, candidates, bias)
    if score not in SCORES or (bias is None) == (score == "linear"):
        raise ValueError(
            f"score is {score!r}, bias {'left out' if bias is None else 'given'}: expected l2 or cosine, or linear with a bias"
        )
    take = candidates.shape[1]
    if not 1 <= k <= take <= MOST_CANDIDATES:
        raise ValueError(f"k is {k} of {take} candidates: expected 1 ≤ k ≤ candidates ≤ {MOST_CANDIDATES}")
    index = torch.empty((len(vectors), k), dtype=torch.int64, device=vectors.device)
    distance = torch.empty((len(vectors), k), dtype=torch.float32, device=vectors.device)
    if len(vectors):
        images, dims = vectors.shape
        plan = plan_rank_candidates(images, dims, vectors.stride(0), take, k, score)
        inputs = {"vectors": vectors, "word_vectors": word_vectors, "bias": bias, "known": known, "candidates": candidates}
        launch(plan, {**inputs, "index": index, "distance": distance}, vectors.device)
    return index, distance


@cache_plans
def plan_rank_candidates(images: int, dims: int, row_stride: int, candidates: int, k: int, score: str) -> Launch:
    """The launch that ranks ``candidates`` words of each image.

    Pointer names: vectors, word_vectors, bias (may be null but for linear scores), known, candidates, index, distance.
    """
    return Launch(
        source="rank_candidates.cu",
        kernel="rank_candidates",
        options=(f"-DSCORE_{score.upper()}",),
        grid=(images, 1, 1),
        block=(32 * min(candidates, _WARPS), 1, 1),
        shared_bytes=8 * candidates,
        arguments=(
            "vectors",
            np.int64(row_stride),
            np.int32(dims),
            "word_vectors",
            "bias",
            "known",
            "candidates",
            np.int32(candidates),
            np.int32(k),
            "index",
            "distance",
        ),
    )
