"""The package's functions with launches on the CPU in place of a GPU's: which kernels they choose and what they hand them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cuda_on_cpu import compiler
from torch import Tensor

from gpuannot import kernels
from gpuannot.kernels import vlad_plan
from gpuannot.kernels.plan import Launch

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler (g++, or the one named in CXX)")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
RAW = {"mass": False, "intra": False, "signed_sqrt": False, "l2": False}
FUSED, APART = 132, 2  # images: one for each multiprocessor, and too few where products take longer than a launch


@pytest.fixture(autouse=True)
def no_products_are_few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    few_products(0, monkeypatch)
    yield
    vlad_plan.plan_assign_vlad.cache_clear()


def few_products(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vlad_plan.plan_assign_vlad.cache_clear()
    monkeypatch.setattr(vlad_plan, "_LAUNCH_PRODUCTS", most)


def names(launched: list[Launch]) -> list[str]:
    return [plan.kernel for plan in launched]


def whole_numbers(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def distances(x: Tensor, c: Tensor) -> Tensor:
    return (x.double().unsqueeze(-2) - c.double()).square().sum(-1)


@pytest.mark.parametrize("same_type", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nearest_center(dtype: torch.dtype, same_type: bool, launched: list[Launch]) -> None:
    x = whole_numbers(50, 24, dtype=dtype, seed=0)[:, :16]
    x[3, 5] = torch.nan
    c = whole_numbers(9, 16, dtype=dtype if same_type else torch.float32, seed=1)
    invalid = torch.ones(1, dtype=torch.int64)
    index, distance = kernels.nearest_center(x, c, return_distance=True, invalid_count=invalid)
    expected, exact = distances(x, c).argmin(1), distances(x, c).amin(1).float()
    expected[3] = -1
    assert torch.equal(index, expected.int()) and torch.equal(distance.nan_to_num(-1), exact.nan_to_num(-1))
    assert invalid.item() == 2
    assert torch.equal(kernels.nearest_center(x, c, kernels.check_centers(c)), index)
    assert names(launched) == ["nearest_center"] * 2


def test_a_version_can_be_asked_for(launched: list[Launch]) -> None:
    x, c = whole_numbers(300, 16, dtype=torch.bfloat16, seed=4), whole_numbers(9, 16, dtype=torch.bfloat16, seed=5)
    expected = distances(x, c).argmin(1).int()
    for method in ("PLAIN", "TILED", "MMA", "STREAM", "WGMMA"):
        assert torch.equal(kernels.nearest_center(x, c, method=method), expected)
    assert torch.equal(kernels.nearest_center(x.float(), c.float(), method="SCREEN"), expected)
    assert len(launched) == 6
    wide = torch.zeros(2, 520, dtype=torch.bfloat16)
    for descriptors, centers, method in (
        (x, c.float(), "MMA"),
        (x.float(), c.float(), "STREAM"),
        (x, c, "mma"),
        (wide, wide, "STREAM"),
        (wide[:, :264], wide[:, :264].contiguous(), "WGMMA"),
    ):
        with pytest.raises(ValueError, match=f"method is '{method}'.* PLAIN, TILED"):
            kernels.nearest_center(descriptors, centers, method=method)


@pytest.mark.parametrize(("images", "expected"), [(FUSED, ["assign_vlad"]), (APART, ["nearest_center", "vlad"])])
@pytest.mark.parametrize("same_type", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_assign_vlad_in_one_launch_or_two(
    dtype: torch.dtype, same_type: bool, images: int, expected: list[str], launched: list[Launch]
) -> None:
    x = whole_numbers(images, 12, 24, dtype=dtype, seed=2)[:, 1:, :16]  # image stride and row stride both with gaps
    c = whole_numbers(9, 16, dtype=dtype if same_type else torch.float32, seed=3)
    labels = distances(x, c).argmin(2)
    members = torch.nn.functional.one_hot(labels, 9).double()
    exact = torch.einsum("bpj,bpn->bjn", members, x.double()) - members.sum(1).unsqueeze(2) * c.double()
    out, skipped = torch.full((images, 144), torch.nan), torch.full((images,), -7, dtype=torch.int32)
    result = kernels.assign_vlad(x, c, out=out, skipped=skipped, **RAW)
    assert result is out and torch.equal(out, exact.flatten(1).float()) and not skipped.any()
    assert names(launched) == expected
    assert torch.equal(kernels.vlad(x, labels.int(), c, **RAW), out)


@pytest.mark.parametrize("images", [FUSED, APART])
def test_each_normalisation_is_handed_on(images: int, launched: list[Launch]) -> None:
    x, c = torch.randn(images, 40, 16), torch.randn(20, 16)
    labels = kernels.nearest_center(x.view(-1, 16), c)
    assert isinstance(labels, Tensor)
    labels = labels.view(images, 40)
    counts = torch.nn.functional.one_hot(labels.long(), 20).sum(1)
    raw = kernels.vlad(x, labels, c, **RAW).view(images, 20, 16)
    normalised = {
        "mass": raw / counts.clamp(min=1).unsqueeze(2),
        "intra": torch.nn.functional.normalize(raw, dim=2),
        "signed_sqrt": raw.sign() * raw.abs().sqrt(),
        "l2": raw / raw.flatten(1).norm(dim=1)[:, None, None],
    }
    launched.clear()
    for name, expected in normalised.items():
        wanted = {**RAW, name: True}
        torch.testing.assert_close(kernels.assign_vlad(x, c, **wanted).view_as(raw), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(kernels.vlad(x, labels, c, **wanted), kernels.assign_vlad(x, c, **wanted))
    assert ("vlad_scale" in names(launched)) == (images == APART)  # the blocks that share an image meet for l2


def test_empty_batches(launched: list[Launch]) -> None:
    c = torch.ones(3, 16)
    index, distance = kernels.nearest_center(torch.ones(0, 16), c, return_distance=True)
    assert index.shape == distance.shape == (0,)
    assert kernels.assign_vlad(torch.ones(0, 5, 16), c, **RAW).shape == (0, 48)
    assert kernels.vlad(torch.ones(0, 5, 16), torch.ones(0, 5, dtype=torch.int32), c, **RAW).shape == (0, 48)
    assert not launched
    for images in (FUSED, APART):
        assert torch.equal(kernels.assign_vlad(torch.ones(images, 0, 16), c, **RAW), torch.zeros(images, 48))


@pytest.mark.parametrize("images", [FUSED, APART])
def test_layers_side_by_side(images: int, launched: list[Launch]) -> None:
    """In one launch, or layer by layer; whole vectors, or in two parts."""
    x, c = (
        whole_numbers(images, 12, 72, dtype=torch.float32, seed=6)[:, 1:, :48],
        whole_numbers(3, 9, 16, dtype=torch.float32, seed=7),
    )
    x[1, 2, 20] = torch.inf
    wanted = {**RAW, "l2": True}
    alone = [kernels.assign_vlad(x[..., 16 * layer : 16 * layer + 16], c[layer], **wanted) for layer in range(3)]
    expected = torch.cat(alone, dim=1)
    launched.clear()
    skipped = torch.full((images, 3), -7, dtype=torch.int32)
    out, parts = torch.empty(images, 432), torch.empty((2, images, 432), dtype=torch.bfloat16)
    assert kernels.assign_vlad(x, c, kernels.check_centers(c.view(27, 16)).view(3, 9), out=out, skipped=skipped, **wanted) is out
    assert torch.equal(out, expected) and skipped.sum() == skipped[1, 1] == 1
    assert torch.equal(kernels.assign_vlad(x, c, **wanted), expected)
    kernels.assign_vlad(x, c, out=parts, **wanted)
    assert torch.equal(parts[0], expected.bfloat16())
    assert torch.equal(parts[1], (expected - expected.bfloat16().float()).bfloat16())
    assert names(launched) == (["assign_vlad"] * 3 if images == FUSED else ["nearest_center", "vlad", "vlad_scale"] * 9)


def test_few_images_of_few_products_in_one_launch(launched: list[Launch], monkeypatch: pytest.MonkeyPatch) -> None:
    x, c = whole_numbers(1, 12, 16, dtype=torch.float32, seed=8), whole_numbers(9, 16, dtype=torch.float32, seed=9)
    few_products(12 * 16 * 32, monkeypatch)
    fused = kernels.assign_vlad(x, c, **RAW)
    few_products(12 * 16 * 32 - 1, monkeypatch)
    assert torch.equal(kernels.assign_vlad(x, c, **RAW), fused)
    assert names(launched) == ["assign_vlad", "nearest_center", "vlad"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"descriptors": torch.zeros(2, 5, 9)}, "centers has 2 layers of 4 dimensions and descriptors 9"),
        ({"half_norms": torch.zeros(6)}, r"half_norms has shape \(6,\)"),
        ({"out": torch.zeros(2, 2, 24)}, r"out has shape \(2, 2, 24\)"),
        ({"out": torch.zeros(2, 24).bfloat16()}, r"out has shape \(2, 24\)"),
        ({"skipped": torch.zeros(2, dtype=torch.int32)}, r"skipped has shape \(2,\)"),
        ({"centers": torch.zeros(2, 3, 8)[..., ::2]}, "centers has strides"),
    ],
)
def test_wrong_layers_are_named(change: dict[str, Tensor], message: str, launched: list[Launch]) -> None:
    right = {"descriptors": torch.zeros(2, 5, 8), "centers": torch.zeros(2, 3, 4)}
    with pytest.raises(ValueError, match=message):
        kernels.assign_vlad(**{**right, **change}, **RAW)
