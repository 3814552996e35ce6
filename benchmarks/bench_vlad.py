"""Descriptors to VLAD vectors (nearest centre and equation 1): ``python -m benchmarks.bench_vlad [--device cuda]``.

No normalisation. The error is that of the vectors against the float64 reference. "Per-image loop" is how most published VLAD code
is written: a loop over images and centres that stores the residuals before it adds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench_nearest_center import PATCHES, faiss_flat, product_argmin
from benchmarks.peers import Missing, peer
from benchmarks.rows import OURS, Row, Setting, Variants, measure_rows, relative_error, stage_main
from gpuannot.reference.vlad import vlad

LOOP = "per-image loop, stored residuals"
_CHECKED = 32  # images compared with float64


def index_add(descriptors: Tensor, index: Tensor, centers: Tensor) -> Tensor:
    """VLAD of descriptors (B, P, n) with their centres (B, P) in plain torch: Σx − count·c."""
    batch, m, n = len(index), len(centers), descriptors.shape[2]
    row = (index + m * torch.arange(batch, device=index.device)[:, None]).flatten()
    sums = torch.zeros(batch * m, n, device=descriptors.device).index_add_(0, row, descriptors.reshape(-1, n))
    counts = torch.bincount(row, minlength=batch * m).view(batch, m, 1)
    return (sums.view(batch, m, n) - counts * centers).flatten(1)


def one_hot(descriptors: Tensor, index: Tensor, centers: Tensor) -> Tensor:
    """The same as a batch of small products with the indicator matrix, which is deterministic on a GPU too."""
    indicator = torch.nn.functional.one_hot(index, len(centers)).to(descriptors.dtype)
    sums = indicator.transpose(1, 2) @ descriptors
    return (sums - indicator.sum(dim=1)[:, :, None] * centers).flatten(1)


def image_loop(descriptors: np.ndarray, centers: np.ndarray, assign: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    vectors = np.zeros((len(descriptors), *centers.shape), dtype=np.float32)
    for vector, image in zip(vectors, descriptors, strict=True):
        index = assign(image)
        for number, center in enumerate(centers):
            if np.any(index == number):
                vector[number] = np.sum(image[index == number] - center, axis=0)
    return vectors.reshape(len(vectors), -1)


def vlfeat(encode: Any, descriptors: np.ndarray, centers: np.ndarray, assign: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """VLFeat's own VLAD, which takes one image and a matrix of assignments."""
    hard = np.eye(len(centers), dtype=np.float32)
    return np.stack([encode(image, centers, hard[assign(image)], unnormalized=True) for image in descriptors])


def cpu_variants(descriptors: np.ndarray, centers: np.ndarray) -> Variants:
    x, c = torch.from_numpy(descriptors), torch.from_numpy(centers)
    batch, patches, n = descriptors.shape
    half_norms = 0.5 * c.square().sum(dim=1)
    cyvlfeat = peer("cyvlfeat.vlad", "cyvlfeat (it compiles against libvlfeat-dev)")

    def torch_index() -> Tensor:
        return product_argmin(x.view(-1, n), c, half_norms).view(batch, patches)

    def small(image: np.ndarray) -> np.ndarray:
        return (half_norms.numpy() - image @ centers.T).argmin(axis=1)

    found: dict[str, Any] = {
        OURS: partial(vlad, descriptors, centers),
        "torch addmm + argmin, index_add": lambda: index_add(x, torch_index(), c),
        "torch addmm + argmin, one-hot product": lambda: one_hot(x, torch_index(), c),
        LOOP: partial(image_loop, descriptors, centers, small),
        "cyvlfeat": cyvlfeat if isinstance(cyvlfeat, Missing) else partial(vlfeat, cyvlfeat.vlad, descriptors, centers, small),
    }
    index = faiss_flat(centers, torch.device("cpu"))
    if isinstance(index, Missing):
        return found | {"faiss, torch index_add": index}

    def faiss_index() -> Tensor:
        return torch.from_numpy(index.search(descriptors.reshape(-1, n), 1)[1]).view(batch, patches)

    return found | {"faiss, torch index_add": lambda: index_add(x, faiss_index(), c)}


def cuda_variants(descriptors: Tensor, centers: Tensor) -> Variants:
    from gpuannot.kernels import assign_vlad, check_centers
    from gpuannot.kernels import nearest_center as kernel
    from gpuannot.kernels import vlad as aggregate

    steps: dict[str, Any] = {"mass": False, "intra": False, "signed_sqrt": False, "l2": False}
    checked = check_centers(centers)
    batch, patches, n = descriptors.shape
    nearest: Any = kernel(descriptors.view(-1, n), centers, checked)
    labels = nearest.view(batch, patches)

    def torch_index() -> Tensor:
        return product_argmin(descriptors.view(-1, n), centers, checked).view(batch, patches)

    return {
        OURS: partial(assign_vlad, descriptors, centers, checked, **steps),
        "gpuannot, from given indices": partial(aggregate, descriptors, labels, centers, **steps),
        "torch addmm + argmin, index_add": lambda: index_add(descriptors, torch_index(), centers),
        "torch addmm + argmin, one-hot product": lambda: one_hot(descriptors, torch_index(), centers),
    }


def measure(setting: Setting) -> Iterator[Row]:
    images = setting.pick(256, 2048, 16)
    for n, m in setting.pick([(64, 64), (128, 64), (64, 256)], [(64, 64), (128, 64), (64, 256)], [(64, 64)]):
        generator = torch.Generator(setting.device).manual_seed(setting.seed)
        descriptors = torch.randn(images, PATCHES, n, device=setting.device, generator=generator)
        centers = torch.randn(m, n, device=setting.device, generator=generator)
        exact = vlad(descriptors[:_CHECKED].double().cpu().numpy(), centers.double().cpu().numpy())
        variants = cuda_variants(descriptors, centers) if setting.gpu else cpu_variants(descriptors.numpy(), centers.numpy())
        yield from measure_rows(
            setting,
            "vlad",
            {"images": images, "patches": PATCHES, "n": n, "m": m},
            variants,
            items=images,
            moved=4.0 * images * (PATCHES * n + m * n),
            work=2.0 * images * PATCHES * n * m,
            agreement=lambda answer, exact=exact: relative_error(answer[: len(exact)], exact),  # type: ignore[misc]
        )


if __name__ == "__main__":
    stage_main("bench_vlad", __doc__ or "", measure)
