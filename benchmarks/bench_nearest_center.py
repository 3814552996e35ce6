"""Nearest centre against its peers: ``python -m benchmarks.bench_nearest_center [--device cuda]``.

196 descriptors an image, as conv5_2 gives them at 224 × 224. All variants get contiguous arrays where they want them and give
indices; agreement is the share of indices equal to the float64 reference's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers import Missing, calls, compiled, peer
from benchmarks.rows import OURS, Row, Setting, Variants, equal_share, measure_rows, stage_main
from gpuannot.reference.vlad import nearest_center

PATCHES = 196
_CHECKED = 50_000  # descriptors compared with float64


def product_argmin(descriptors: Tensor, centers: Tensor, half_norms: Tensor) -> Tensor:
    """What plain torch does: one product, one argmin."""
    return torch.addmm(half_norms, descriptors, centers.T, alpha=-1).argmin(dim=1)


def cdist_argmin(descriptors: Tensor, centers: Tensor) -> Tensor:
    return torch.cdist(descriptors, centers).argmin(dim=1)


def faiss_flat(centers: Any, device: torch.device) -> Any:
    """A flat L2 index of the centres, or why there is none."""
    faiss = peer("faiss", "faiss-cpu")
    if isinstance(faiss, Missing):
        return faiss
    index = faiss.IndexFlatL2(centers.shape[1])
    index.add(np.ascontiguousarray(centers, dtype=np.float32))
    if device.type != "cuda":
        return index
    if not hasattr(faiss, "StandardGpuResources"):
        return Missing("this faiss is built without CUDA; pip install faiss-gpu-cu12")
    peer("faiss.contrib.torch_utils")  # its search then takes CUDA tensors
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device.index or 0, index)


def cpu_variants(descriptors: np.ndarray, centers: np.ndarray, quick: bool) -> Variants:
    x, c = torch.from_numpy(descriptors), torch.from_numpy(centers)
    half_norms = 0.5 * c.square().sum(dim=1)
    index = faiss_flat(centers, torch.device("cpu"))
    sklearn, vq = peer("sklearn.metrics", "scikit-learn"), peer("scipy.cluster.vq", "scipy")
    return {
        OURS: partial(nearest_center, descriptors, centers),
        "faiss IndexFlatL2": index if isinstance(index, Missing) else lambda: index.search(descriptors, 1)[1][:, 0],
        "torch addmm + argmin": partial(product_argmin, x, c, half_norms),
        "torch cdist + argmin": partial(cdist_argmin, x, c),
        "torch addmm + argmin, compiled": calls(compiled(product_argmin, quick=quick), x, c, half_norms),
        "scikit-learn pairwise_distances_argmin": partial(sklearn.pairwise_distances_argmin, descriptors, centers),
        "SciPy vq": lambda: vq.vq(descriptors, centers)[0],
        "flash-kmeans": peer("flash_kmeans", gpu=True),
    }


def cuda_variants(descriptors: Tensor, centers: Tensor, quick: bool) -> Variants:
    from gpuannot.kernels import check_centers
    from gpuannot.kernels import nearest_center as kernel
    from gpuannot.kernels.stream import served_methods

    checked, half_norms = check_centers(centers), (0.5 * centers.float().square().sum(dim=1)).to(centers.dtype)
    index = faiss_flat(centers.float().cpu().numpy(), descriptors.device)
    if not isinstance(index, Missing) and descriptors.dtype != torch.float32:
        index = Missing("takes float32 only")
    flash = peer("flash_kmeans.assign_euclid_triton", "flash-kmeans", gpu=True)
    squares = descriptors.float().square().sum(dim=1)[None]  # which its assignment wants ready
    # Versions that the choice passes over, so that hardware can judge it.
    dtype = str(descriptors.dtype).removeprefix("torch.")
    served = served_methods(descriptors.shape[1], dtype, dtype, torch.cuda.get_device_capability(descriptors.device))
    versions = [version for version in served if version != "PLAIN" and (version, dtype) != ("TILED", "float32")]
    return {
        OURS: partial(kernel, descriptors, centers, checked),
        **{f"{OURS}, {version.lower()}": partial(kernel, descriptors, centers, checked, method=version) for version in versions},
        "torch addmm + argmin": partial(product_argmin, descriptors, centers, half_norms),
        "torch cdist + argmin": partial(cdist_argmin, descriptors, centers),
        "torch addmm + argmin, compiled": calls(compiled(product_argmin, quick=quick), descriptors, centers, half_norms),
        "faiss IndexFlatL2": index if isinstance(index, Missing) else lambda: index.search(descriptors, 1)[1][:, 0],
        "flash-kmeans": flash
        if isinstance(flash, Missing)
        else lambda: flash.euclid_assign_triton(descriptors[None], centers[None], squares)[0],
    }


def measure(setting: Setting) -> Iterator[Row]:
    images = setting.pick(256, 20_000, 16)
    sizes = setting.pick([(64, 64), (128, 64), (64, 256)], [(64, 64), (128, 64), (64, 256), (128, 256)], [(64, 64)])
    for n, m in sizes:
        for dtype in (torch.float32, torch.bfloat16) if setting.gpu else (torch.float32,):
            generator = torch.Generator(setting.device).manual_seed(setting.seed)
            descriptors, centers = (
                torch.randn(rows, n, device=setting.device, generator=generator).to(dtype) for rows in (images * PATCHES, m)
            )
            exact = nearest_center(descriptors[:_CHECKED].double().cpu().numpy(), centers.double().cpu().numpy())
            if setting.gpu:
                variants = cuda_variants(descriptors, centers, setting.quick)
            else:
                variants = cpu_variants(descriptors.numpy(), centers.numpy(), setting.quick)
            kind = str(dtype).removeprefix("torch.")
            yield from measure_rows(
                setting,
                "nearest_center",
                {"images": images, "patches": PATCHES, "n": n, "m": m, "dtype": kind},
                variants,
                items=images,
                moved=len(descriptors) * (n * dtype.itemsize + 4),
                work=2.0 * len(descriptors) * n * m,
                dtype=kind,
                # An index to which bfloat16 rounding leads is as good as another: it is held to a lower share.
                agreement=partial(_agreement, exact=exact, bound=0.9999 if dtype == torch.float32 else 0.99),
            )


def _agreement(answer: Any, exact: np.ndarray, bound: float) -> Any:
    return equal_share(answer[: len(exact)], exact, bound)


if __name__ == "__main__":
    stage_main("bench_nearest_center", __doc__ or "", measure)
