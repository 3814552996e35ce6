"""Normalisation and PCA as one affine map: ``python -m benchmarks.bench_descriptors [--device cuda]``.

"descriptors" is the map of features (B, P, 512) to descriptors (B, P, 64), "descriptor_sums" the running sums that it is learnt
from. scikit-learn's way is a scaler and a PCA after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.bench_nearest_center import PATCHES
from benchmarks.peers import Missing, calls, compiled, peer
from benchmarks.rows import OURS, Row, Setting, Variants, measure_rows, relative_error, stage_main
from gpuannot.method.descriptors import DeviceTransform, GaussianPCA, _feature_sums_cuda
from gpuannot.reference.descriptors import feature_sums, transform

CHANNELS, COMPONENTS = 512, 64


def features_like_a_trunks(rows: int, seed: int) -> np.ndarray:
    """Features (rows, 512) float32 as after a ReLU: not negative, correlated, of different scales."""
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((COMPONENTS, CHANNELS), dtype=np.float32)
    values = generator.standard_normal((rows, COMPONENTS), dtype=np.float32) @ mixing
    return np.maximum(values * generator.uniform(0.1, 3, CHANNELS).astype(np.float32), 0)


def scaler_pca(learnt: GaussianPCA, features: np.ndarray) -> Any:
    """scikit-learn's scaler and PCA, fitted on the same features."""
    pipeline, decomposition, preprocessing = (peer(f"sklearn.{part}") for part in ("pipeline", "decomposition", "preprocessing"))
    model = pipeline.make_pipeline(
        preprocessing.StandardScaler(), decomposition.PCA(learnt.n_components, svd_solver="covariance_eigh")
    )
    return model.fit(features)


def map_rows(setting: Setting, features: np.ndarray, images: int) -> Iterator[Row]:
    learnt = GaussianPCA(COMPONENTS).fit(features[: 20 * PATCHES])
    exact = features.astype(np.float64) @ learnt.matrix_.astype(np.float64) + learnt.offset_.astype(np.float64)
    x = torch.from_numpy(features).to(setting.device)
    matrix, offset = (torch.from_numpy(values).to(setting.device) for values in (learnt.matrix_, learnt.offset_))
    variants: dict[str, Any] = {}
    size, kind = 4, "float32"
    if setting.gpu:
        x, size, kind = x.bfloat16(), 2, "bfloat16"  # as the trunk gives them
        exact = x.double().cpu().numpy() @ learnt.matrix_.astype(np.float64) + learnt.offset_.astype(np.float64)
        variants[OURS] = partial(learnt.on(setting.device, x.dtype), x)
        by_torch = DeviceTransform(learnt.matrix_, learnt.offset_, x.device, x.dtype, by_kernel=False)
        variants["torch, both 16-bit parts in one product"] = partial(by_torch, x)
        variants["torch addmm, float32 copy"] = lambda: torch.addmm(offset, x.float(), matrix)
        variants["cuML PCA"] = peer("cuml", "cuml-cu13", gpu=True)
        if not isinstance(variants["cuML PCA"], Missing):
            variants["cuML PCA"] = Missing("its transform takes float32 and adds a copy; see bench_codebook for cuML's fits")
    else:
        model = scaler_pca(learnt, features[: 20 * PATCHES])
        variants[OURS] = partial(transform, features, learnt.matrix_, learnt.offset_)
        variants["torch addmm"] = partial(torch.addmm, offset, x, matrix)
        variants["torch addmm, compiled"] = calls(compiled(torch.addmm, quick=setting.quick), offset, x, matrix)
        variants["scikit-learn scaler + PCA"] = partial(model.transform, features)
    yield from measure_rows(
        setting,
        "descriptors",
        {"images": images, "patches": PATCHES, "channels": CHANNELS, "n": COMPONENTS},
        variants,
        items=images,
        moved=float(len(features) * (size * CHANNELS + 4 * COMPONENTS)),
        work=2.0 * len(features) * CHANNELS * COMPONENTS,
        dtype=kind,
        agreement=lambda answer: relative_error(np.abs(_host(answer)), np.abs(exact)),  # a component's sign is free
    )


def sums_rows(setting: Setting, features: np.ndarray, images: int) -> Iterator[Row]:
    x = torch.from_numpy(features).to(setting.device)
    exact = features.astype(np.float64).T @ features.astype(np.float64)
    incremental = peer("sklearn.decomposition").IncrementalPCA
    variants: Variants = {
        OURS: partial(_feature_sums_cuda, x) if setting.gpu else partial(feature_sums, features),
        "torch, product in float32": lambda: (len(x), x.sum(dim=0), x.T @ x),
        "scikit-learn IncrementalPCA": Missing("runs on a CPU, and takes longer than a quick run may")
        if setting.gpu or setting.quick
        else lambda: incremental(COMPONENTS).partial_fit(features) and None,
    }
    yield from measure_rows(
        setting,
        "descriptor_sums",
        {"images": images, "patches": PATCHES, "channels": CHANNELS},
        variants,
        items=images,
        moved=4.0 * features.size,
        work=2.0 * len(features) * CHANNELS**2,
        dtype={OURS: "float64"},
        agreement=lambda answer: None if answer is None else relative_error(answer[2], exact, bound=1e-12),
    )


def _host(values: Any) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else values


def measure(setting: Setting) -> Iterator[Row]:
    images = setting.pick(64, 512, 8)
    features = features_like_a_trunks(images * PATCHES, setting.seed)
    yield from map_rows(setting, features, images)
    yield from sums_rows(setting, features, images)


if __name__ == "__main__":
    stage_main("bench_descriptors", __doc__ or "", measure)
