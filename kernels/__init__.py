"""CUDA kernels: descriptors, their nearest centres, VLAD of each image, its words, and what stands around the trunk's convolutions.

The ``.cu`` files in this folder are compiled at first use, once per device and kind of input, through CuPy. They take torch tensors
in place, run on torch's current stream of the tensors' device, never wait for it, and can be captured in a CUDA graph after one
call with the same shapes has compiled them. No gradient flows through them. Importing this package needs neither CuPy nor a GPU;
calling a function without them raises ``gpuannot.errors.DeviceError`` with what to install.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .features import affine_map
from .loader import alignment_of, device_limits, launch
from .plan import assignment_method, plan_nearest_center
from .projection import unit_products
from .ranking import rank_candidates
from .similarity import kernel_values
from .stream import served_methods
from .trunk import max_pool, normalise_pixels
from .vlad_plan import Step, needs_squares, plan_assign_vlad, plan_vlad

__all__ = [
    "affine_map",
    "assign_vlad",
    "check_centers",
    "kernel_values",
    "max_pool",
    "nearest_center",
    "normalise_pixels",
    "rank_candidates",
    "unit_products",
    "vlad",
]


def check_centers(centers: Tensor) -> Tensor:
    """Check a codebook once, when it is fitted or loaded, and return its ``half_norms``, ‖c‖²/2.

    The kernels do not check centres: that would make every call wait for the device, as this one does.

    Args:
        centers: (m, n) float32, float16 or bfloat16.

    Returns:
        half_norms (m,) float32.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: not (m, n) with m, n ≥ 1; a centre with a NaN or an infinity, or so long that ‖c‖²/2 exceeds float32. The
            message names the first such centre.
    """
    checks.check_codebook(centers)
    half_norms = _half_norms(centers)
    wrong = torch.nonzero(~torch.isfinite(half_norms)).flatten().tolist()
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(centers)} centers have no finite squared norm in float32, the first at row {wrong[0]}: "
            f"{centers[wrong[0]].tolist()[:4]}…; fit the codebook again on finite descriptors"
        )
    return half_norms


def nearest_center(
    descriptors: Tensor,
    centers: Tensor,
    half_norms: Tensor | None = None,
    *,
    return_distance: bool = False,
    invalid_count: Tensor | None = None,
    method: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Index of the nearest centre of each descriptor: NN(f_i) in equation (1) of the paper.

    index_i = argmin_j ‖x_i − c_j‖² = argmin_j (‖c_j‖²/2 − x_i·c_j), in float32 whatever the input; ties go to the lowest index.

    A descriptor that holds a NaN or an infinity, or is so large that a score overflows float32, gets index −1 and distance NaN.

    Args:
        descriptors: (N, n) float32, float16 or bfloat16 on a CUDA device; rows contiguous, any stride between them. N = 0 is
            allowed.
        centers: (m, n) float32 or the descriptors' dtype, contiguous, on the same device, checked by ``check_centers``. 16-bit
            centres of the descriptors' own dtype let the tensor cores work, on compute capability 8.0 and newer.
        half_norms: (m,) float32, ``check_centers(centers)``; computed at each call when left out.
        return_distance: also return the squared L2 distances, max(0, ‖x‖² + 2·score), float32.
        invalid_count: (1,) int64; the number of invalid descriptors is added to it.
        method: a version of the kernel instead of the one that ``plan_nearest_center`` chooses, for benchmarks: "PLAIN" or "TILED";
            from compute capability 8.0 on "SCREEN" (up to 128 dimensions) in float32 and, with 16-bit centres, "MMA" or "STREAM"
            (up to 512); on 9.0 also "WGMMA" (up to 256).

    Returns:
        index (N,) int32, or (index, distance (N,) float32).

    Raises:
        TypeError: an argument of wrong type or dtype; the message names it.
        ValueError: an argument of wrong shape, stride or device; the message names it.
        DeviceError: the tensors are not on a CUDA device, or the device, driver or CuPy does not serve.
    """
    checks.check_nearest_center(descriptors, centers, half_norms, invalid_count)
    device = descriptors.device
    limits = device_limits(device)
    rows, dims = descriptors.shape
    index = torch.empty(rows, dtype=torch.int32, device=device)
    distance = torch.empty(rows, dtype=torch.float32, device=device) if return_distance else None
    if rows:
        half_norms = _half_norms(centers) if half_norms is None else half_norms
        centers = _scoring_centers(centers, descriptors, limits.capability, method)
        plan = plan_nearest_center(
            rows,
            dims,
            len(centers),
            _name(descriptors),
            _name(centers),
            descriptors.stride(0),
            alignment=alignment_of(descriptors, centers),
            capability=limits.capability,
            multiprocessors=limits.multiprocessors,
            shared_limit=limits.shared_bytes,
            method=method,
        )
        inputs = {"descriptors": descriptors, "centers": centers, "half_norms": half_norms}
        launch(plan, {**inputs, "index": index, "distance": distance, "invalid_count": invalid_count}, device)
    return index if distance is None else (index, distance)


def vlad(
    descriptors: Tensor,
    labels: Tensor,
    centers: Tensor,
    *,
    mass: bool,
    intra: bool,
    signed_sqrt: bool,
    l2: bool,
    out: Tensor | None = None,
    skipped: Tensor | None = None,
) -> Tensor:
    """VLAD of each image from given labels, equation (1) of the paper: V_bj = Σ_{p: label_bp = j} (x_bp − c_j).

    Then the normalisations that are asked for, in the order of their arguments. Empty centres and norms of zero stay zero. Sums are
    added in patch order: the same bits at every run.

    Args:
        descriptors: (B, P, n) float32, float16 or bfloat16 on a CUDA device; the last dimension contiguous, any strides before it.
            B = 0 is allowed, and P = 0, which gives zeros.
        labels: (B, P) int32, index of each descriptor's centre; one outside 0 … m − 1, as the −1 of ``nearest_center``, leaves its
            descriptor out.
        centers: (m, n) float32 or the descriptors' dtype, contiguous, checked by ``check_centers``.
        mass: whether to divide each centre's block by its number of descriptors.
        intra: whether to divide each centre's block by its L2 norm.
        signed_sqrt: whether to replace v by sign(v)·√|v|.
        l2: whether to divide the whole vector by its L2 norm.
        out: (B, m·n) float32, contiguous; receives the result instead of a new tensor.
        skipped: (B,) int32, contiguous; receives the number of descriptors left out of each image.

    Returns:
        The vectors (B, m·n) float32, ``out`` where it was given.

    Raises:
        TypeError: as ``nearest_center``.
        ValueError: as ``nearest_center``.
        DeviceError: as ``nearest_center``.
    """
    checks.check_vlad(descriptors, labels, centers, out, skipped)
    return _vlad(descriptors, labels, centers, _steps(mass, intra, signed_sqrt, l2), out, skipped)


def assign_vlad(
    descriptors: Tensor,
    centers: Tensor,
    half_norms: Tensor | None = None,
    *,
    mass: bool,
    intra: bool,
    signed_sqrt: bool,
    l2: bool,
    out: Tensor | None = None,
    skipped: Tensor | None = None,
) -> Tensor:
    """VLAD of each image, labels and residuals in one launch: ``vlad`` of ``nearest_center``, bit for bit.

    With centres (L, m, n), ``descriptors`` (B, P, L·n) hold those of L layers side by side, each layer's vector is made and
    normalised by itself, and the vectors (B, L·m·n) stand behind each other.

    Where a layer's VLAD vector does not fit in a block's shared memory, or the images are so few and the products of each so many
    that a block an image would take long, the two run one after the other, layer by layer. Arguments, result and errors are theirs,
    but:

    Args:
        half_norms: (m,) or (L, m) float32.
        out: (B, L·m·n) float32; or (2, B, L·m·n) bfloat16, which receives of each value what bfloat16 holds of it and, behind
            all, what it holds of the rest: together 2⁻¹⁷ of the value from it, or less.
        skipped: (B,), or (B, L) with L layers, int32; receives the number of invalid descriptors of each.
    """
    checks.check_assign_vlad(descriptors, centers, half_norms, out, skipped)
    steps, device = _steps(mass, intra, signed_sqrt, l2), descriptors.device
    limits = device_limits(device)
    images, patches, _ = descriptors.shape
    layers, count, dims = (1, *centers.shape) if centers.ndim == 2 else centers.shape
    if out is None:
        out = torch.empty(images, centers.numel(), dtype=torch.float32, device=device)
    if not images:
        return out
    half_norms = _half_norms(centers) if half_norms is None else half_norms
    scoring = _scoring_centers(centers, descriptors, limits.capability)
    plan = plan_assign_vlad(
        images,
        patches,
        dims,
        count,
        _name(descriptors),
        _name(scoring),
        descriptors.stride(0),
        descriptors.stride(1),
        steps,
        layers=layers,
        split=out.dtype == torch.bfloat16,
        alignment=alignment_of(descriptors, scoring, out),
        capability=limits.capability,
        multiprocessors=limits.multiprocessors,
        shared_limit=limits.shared_bytes,
    )
    if plan is not None:
        buffers = {"descriptors": descriptors, "centers": scoring, "half_norms": half_norms, "out": out, "skipped": skipped}
        launch(plan, buffers, device)
        return out
    for layer, (own, words, norms) in enumerate(
        zip(descriptors.split(dims, dim=2), centers.view(-1, count, dims), half_norms.view(-1, count), strict=True)
    ):
        labels = nearest_center(own.reshape(-1, dims), words, norms)
        assert isinstance(labels, Tensor)
        left_out = None if skipped is None else torch.empty(images, dtype=torch.int32, device=device)
        vectors = _vlad(own, labels.view(images, patches), words, steps, out if layers == 1 and out.ndim == 2 else None, left_out)
        if skipped is not None and left_out is not None:
            skipped.view(images, -1)[:, layer] = left_out
        columns = slice(layer * count * dims, (layer + 1) * count * dims)
        if out.ndim == 3:
            high = vectors.bfloat16()
            out[0, :, columns], out[1, :, columns] = high, vectors - high.float()
        elif layers > 1:
            out[:, columns] = vectors
    return out


def _vlad(descriptors: Tensor, labels: Tensor, centers: Tensor, steps: Step, out: Tensor | None, skipped: Tensor | None) -> Tensor:
    """``vlad`` of checked tensors."""
    device = descriptors.device
    limits = device_limits(device)
    images, patches, dims = descriptors.shape
    if out is None:
        out = torch.empty(images, centers.numel(), dtype=torch.float32, device=device)
    if not images:
        return out
    plans = plan_vlad(
        images,
        patches,
        dims,
        len(centers),
        _name(descriptors),
        descriptors.stride(0),
        descriptors.stride(1),
        labels.stride(0),
        steps,
        alignment=alignment_of(descriptors, centers, out),
        multiprocessors=limits.multiprocessors,
        shared_limit=limits.shared_bytes,
    )
    squares = torch.empty(images, len(centers), dtype=torch.float64, device=device) if needs_squares(plans) else None
    buffers = {"descriptors": descriptors, "labels": labels, "centers": centers.float(), "out": out, "squares": squares}
    for plan in plans:
        launch(plan, {**buffers, "skipped": skipped}, device)
    return out


def _half_norms(centers: Tensor) -> Tensor:
    return centers.double().square_().sum(-1).mul_(0.5).float()


def _scoring_centers(centers: Tensor, descriptors: Tensor, capability: tuple[int, int], method: str | None = None) -> Tensor:
    """The centres in the type that the scoring kernel takes: ``method``, or this device's."""
    types = (centers.shape[-1], _name(descriptors), _name(centers), capability)
    checks.check_method(method, served_methods(*types))
    return centers if (method or assignment_method(*types)) in ("MMA", "STREAM", "WGMMA") else centers.float()


def _steps(mass: bool, intra: bool, signed_sqrt: bool, l2: bool) -> Step:
    chosen = zip((mass, intra, signed_sqrt, l2), Step, strict=True)
    return Step(sum(step for wanted, step in chosen if wanted))


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
