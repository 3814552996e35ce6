"""Nearest centre and VLAD (the paper's equation 1)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..system.threads import even_block, for_blocks

# Scores that a thread holds at once: few enough for its cache, and enough for the calls to cost little beside the work.
_SCORES = 1 << 19
# Up to so many multiplications OpenBLAS makes a product without copying the factors first, which is faster (its small matrix path)
# as long as there are some rows.
_SMALL, _ROWS = 10**6, 16
# Images that a thread aggregates at once.
_IMAGES = 64


def nearest_center(
    descriptors: NDArray[np.floating],
    centers: NDArray[np.floating],
) -> NDArray[np.int32]:
    """Index of the nearest centre in L2: ``argmin_j ‖c_j‖²/2 − x·c_j``.

    ‖x‖² decides nothing and is left out. Ties go to the lowest index. A descriptor with a NaN or infinite value, or so large that a
    score overflows, has no nearest centre: −1.

    Args:
        descriptors: (N, n).
        centers: (m, n).

    Returns:
        (N,) int32.
    """
    prepared = _prepare(centers, np.result_type(descriptors, centers))
    index = np.empty(len(descriptors), dtype=np.int32)

    block = max(_ROWS, _SCORES // len(centers))
    rows = _SMALL // centers.size if _ROWS * centers.size <= _SMALL else block

    def assign(start: int, stop: int) -> None:
        whole = stop - (stop - start) % rows
        for first, last, size in ((start, whole, rows), (whole, stop, stop - whole)):
            if last > first:
                products = descriptors[first:last].reshape(-1, size, descriptors.shape[1])
                index[first:last] = _nearest(products, prepared).ravel()

    for_blocks(assign, len(descriptors), rows * max(1, block // rows))
    return index


class _Prepared(NamedTuple):
    """−Cᵀ (n, m), ‖c‖²/2 (m,), and for each centre the first that equals it, (m,)."""

    negative: NDArray[np.floating]
    half_norms: NDArray[np.floating]
    canonical: NDArray[np.int32]


def _prepare(centers: NDArray[np.floating], dtype: np.dtype) -> _Prepared:
    half_norms = 0.5 * np.einsum("ij,ij->i", centers, centers)
    return _Prepared(np.ascontiguousarray(-centers.T, dtype=dtype), half_norms, _first_of_equals(centers))


def _nearest(descriptors: NDArray[np.floating], prepared: _Prepared) -> NDArray[np.int32]:
    """:func:`nearest_center` of few descriptors (B, P, n), in a product for each P of them, which BLAS rounds as it would alone."""
    with np.errstate(invalid="ignore", over="ignore"):
        scores = descriptors @ prepared.negative
        scores += prepared.half_norms
        total = scores.sum()
    index = prepared.canonical[scores.argmin(axis=-1)]
    if not np.isfinite(total):  # as it is wherever a score is not
        index[~np.isfinite(scores).all(axis=-1)] = -1
    return index


def _first_of_equals(centers: NDArray[np.floating]) -> NDArray[np.int32]:
    """For each centre, the lowest index among those equal to it.

    A product may round one column otherwise than another, even where two centres are equal: they count as the first of them.
    """
    first: dict[bytes, int] = {}
    rows = centers + centers.dtype.type(0)  # −0 equals 0
    return np.array([first.setdefault(row.tobytes(), number) for number, row in enumerate(rows)], dtype=np.int32)


def residual_sums(
    descriptors: NDArray[np.floating],
    index: NDArray[np.int32],
    centers: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Equation 1 without normalisation: for each image and centre, ``Σx − count·c`` over the descriptors assigned to it.

    The sum over an image's patches is a product with the sparse indicator matrix of (image, centre) × descriptor, so that no (B, P,
    m, n) residual is ever stored.

    Args:
        descriptors: (B, P, n).
        index: (B, P), −1 to leave a descriptor out.
        centers: (m, n).

    Returns:
        residuals (B, m, n) in the descriptors' dtype, and counts (B, m) int64.
    """
    batch, _, n = descriptors.shape
    residuals = np.empty((batch, len(centers), n), dtype=descriptors.dtype)
    counts = np.empty((batch, len(centers)), dtype=np.int64)

    def aggregate(start: int, stop: int) -> None:
        counts[start:stop] = _sum(descriptors[start:stop], index[start:stop], centers, residuals[start:stop])

    for_blocks(aggregate, batch, even_block(batch, _IMAGES))
    return residuals, counts


def _sum(
    descriptors: NDArray[np.floating],  # (B, P, n)
    index: NDArray[np.int32],  # (B, P)
    centers: NDArray[np.floating],  # (m, n)
    residuals: NDArray[np.floating],  # (B, m, n), written to
) -> NDArray[np.int64]:
    """:func:`residual_sums` of few images: the counts (B, m)."""
    images, patches, n = descriptors.shape
    m, dtype = len(centers), descriptors.dtype
    labels = index.reshape(-1)
    valid = labels >= 0
    row = (np.repeat(np.arange(images, dtype=np.int32), patches) * m + labels)[valid]
    counts = np.bincount(row, minlength=images * m).reshape(images, m)
    # By columns, of which each has one entry or, where a descriptor is left out, none: a NaN in that one touches nothing.
    column = np.concatenate([[0], np.cumsum(valid)])
    indicator = sparse.csc_array((np.ones(len(row), dtype), row, column), shape=(images * m, images * patches))
    sums = (indicator @ descriptors.reshape(-1, n)).reshape(images, m, n)
    np.multiply(counts[:, :, None].astype(dtype), centers, out=residuals)
    np.subtract(sums, residuals, out=residuals)
    return counts


def vlad(
    descriptors: NDArray[np.floating],
    centers: NDArray[np.floating],
    *,
    mass: bool = False,
    intra: bool = False,
    signed_sqrt: bool = False,
    l2: bool = False,
) -> NDArray[np.floating]:
    """VLAD vectors of a batch of images.

    The normalisation steps are optional, and always in VLFeat's order, which is that of the arguments. What is zero stays zero.

    Args:
        descriptors: (B, P, n).
        centers: (m, n).
        mass: divide each centre's residual by the number of its descriptors.
        intra: bring each centre's residual to unit L2 norm.
        signed_sqrt: take sign(v)·√|v| of every value.
        l2: bring the whole vector to unit L2 norm.

    Returns:
        (B, m·n) in the descriptors' dtype.
    """
    batch, patches, n = descriptors.shape
    prepared = _prepare(centers, np.result_type(descriptors, centers))
    residuals = np.empty((batch, len(centers), n), dtype=descriptors.dtype)
    counts = np.empty((batch, len(centers)), dtype=np.int64)

    # All of an image or an even share of it, so that what else is in the batch changes no bit.
    shares = (size for size in range(patches, _ROWS - 1, -1) if patches % size == 0 and size * centers.size <= _SMALL)
    rows = next(shares, max(1, patches))

    def encode(start: int, stop: int) -> None:  # one after the other in one thread, whose cache still holds the descriptors
        part = descriptors[start:stop]
        index = _nearest(part.reshape(-1, rows, n), prepared).reshape(part.shape[:2])
        counts[start:stop] = _sum(part, index, centers, residuals[start:stop])

    for_blocks(encode, batch, even_block(batch, _SCORES // max(1, len(centers) * patches)))
    if mass:
        residuals /= np.maximum(counts, 1)[:, :, None].astype(residuals.dtype)
    if intra:
        residuals /= _norm_or_one(residuals)
    if signed_sqrt:
        residuals = np.sign(residuals) * np.sqrt(np.abs(residuals))
    vectors = residuals.reshape(batch, len(centers) * n)
    if l2:
        vectors = vectors / _norm_or_one(vectors)
    return vectors


def patch_contributions(
    descriptors: NDArray[np.floating],
    centers: NDArray[np.floating],
    weights: NDArray[np.floating],
    *,
    mass: bool = False,
    intra: bool = False,
    signed_sqrt: bool = False,
    l2: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each patch adds to the linear scores w·F_v of an image's VLAD vector.

    Before normalisation F_v is a sum over patches, so a score is too: patch p with centre c adds w_c·(f_p − c). ``mass``, ``intra``
    and ``l2`` divide by counts and norms: for one image these are fixed factors, and the sum stays a sum. ``signed_sqrt`` is no
    factor, but sign(r)·√|r| = r/√|r|: with the denominator fixed, each patch has the share of the root that it has of r. So the
    contributions add up to the score, and the shares of a value whose patches all but cancel are large, of both signs.

    Args:
        descriptors: (P, n), of one image.
        centers: (m, n).
        weights: (k, m·n).
        mass: as for :func:`vlad`, as are the other steps.

    Returns:
        vector (m·n,) and contributions (k, P), float64. ``contributions.sum(axis=1)`` is ``weights @ vector`` up to rounding.
    """
    patches, n = descriptors.shape
    index = nearest_center(descriptors, centers)
    exact, middle = descriptors.astype(np.float64), centers.astype(np.float64)
    residuals, counts = residual_sums(exact[None], index[None], middle)
    values = residuals[0]
    factor = np.ones_like(values)  # of the residual sums, in the normalised vector
    if mass:
        factor /= np.maximum(counts[0], 1)[:, None]
    if intra:
        factor /= _norm_or_one(values * factor)
    if signed_sqrt:
        root = np.sqrt(np.abs(values * factor))
        factor = np.divide(factor, root, out=np.zeros_like(factor), where=root > 0)
    if l2:
        factor /= _norm_or_one((values * factor).reshape(1, -1))
    valid = index >= 0
    scaled = weights.reshape(len(weights), len(centers), n) * factor
    contributions = np.zeros((len(weights), patches))
    contributions[:, valid] = np.einsum("kpn,pn->kp", scaled[:, index[valid]], exact[valid] - middle[index[valid]])
    return (values * factor).ravel(), contributions


def _norm_or_one(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(norm > 0, norm, norm.dtype.type(1))
