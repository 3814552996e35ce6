"""Distances: plain float64 loops over pairs and bins, known values, equal rows, and tiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gpuannot.baselines import distances as module
from gpuannot.baselines.distances import METRICS, check_metric, distances

HISTOGRAM_METRICS = ("chi2", "kl")


def plain(x: NDArray, y: NDArray, metric: str) -> NDArray:
    """Pair by pair, bin by bin."""

    def shares(row: NDArray) -> list[float]:
        total = math.fsum(row)
        return [0.999 * (v / total if total else 1 / len(row)) + 0.001 / len(row) for v in row]

    def one(a: NDArray, b: NDArray) -> float:
        if metric == "l1":
            return math.fsum(abs(p - q) for p, q in zip(a, b, strict=True))
        if metric == "l2":
            return math.sqrt(math.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True)))
        if metric == "chi2":
            return 0.5 * math.fsum((p - q) ** 2 / (p + q) for p, q in zip(a, b, strict=True) if p + q > 0)
        if metric == "kl":
            forth = math.fsum(p * math.log(p / q) for p, q in zip(shares(a), shares(b), strict=True))
            back = math.fsum(q * math.log(q / p) for p, q in zip(shares(a), shares(b), strict=True))
            return (forth + back) / 2
        norms = math.sqrt(math.fsum(p * p for p in a)) * math.sqrt(math.fsum(q * q for q in b))
        return 1 - math.fsum(p * q for p, q in zip(a, b, strict=True)) / norms if norms else 1.0

    return np.array([[one(a, b) for b in y.tolist()] for a in x.tolist()]).reshape(len(x), len(y))


def case(metric: str, rows: int, columns: int, dimension: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    x, y = (rng.normal(size=(n, dimension)).astype(np.float32) for n in (rows, columns))
    if metric in HISTOGRAM_METRICS:  # with empty bins, as histograms have
        x, y = (np.maximum(part, 0) for part in (x, y))
    return torch.from_numpy(x), torch.from_numpy(y)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("rows", "columns", "dimension"), [(1, 1, 1), (1, 7, 3), (5, 1, 17), (13, 9, 129), (0, 3, 4), (3, 0, 4)])
def test_plain_loops(metric: str, rows: int, columns: int, dimension: int) -> None:
    x, y = case(metric, rows, columns, dimension)
    found = distances(x, y, metric)
    assert found.dtype == torch.float32 and found.shape == (rows, columns)
    np.testing.assert_allclose(found.numpy(), plain(x.numpy(), y.numpy(), metric), rtol=3e-7 * max(2, dimension**0.5), atol=1e-7)


def test_by_hand() -> None:
    x, y = torch.tensor([[3.0, 1, 0, 0]]), torch.tensor([[1.0, 1, 2, 0], [0, 0, 0, 0]])
    assert distances(x, y, "l1").tolist() == [[4, 4]]
    assert distances(x, y, "l2").tolist() == [[pytest.approx(math.sqrt(8)), pytest.approx(math.sqrt(10))]]
    assert distances(x, y, "chi2").tolist() == [[1.5, 2.0]]  # ½(4/4 + 0 + 4/2), ½(3 + 1)
    assert distances(x, y, "cosine").tolist() == [[pytest.approx(1 - 4 / math.sqrt(60)), 1]]
    # Shares (3, 1)/4 and (1, 3)/4, smoothed to a = 0.74975 and b = 0.25025: both ways (a − b)·ln(a/b).
    a, b = 0.74975, 0.25025
    assert distances(torch.tensor([[3.0, 1]]), torch.tensor([[1.0, 3]]), "kl").item() == pytest.approx((a - b) * math.log(a / b))


@pytest.mark.parametrize("metric", METRICS)
def test_no_dimension_and_no_mass(metric: str) -> None:
    expected = 1.0 if metric == "cosine" else 0.0
    assert distances(torch.zeros((2, 0)), torch.zeros((3, 0)), metric).tolist() == [[expected] * 3] * 2
    assert distances(torch.zeros((2, 4)), torch.zeros((3, 4)), metric).tolist() == [[pytest.approx(expected, abs=1e-12)] * 3] * 2


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_equal_rows_are_at_no_distance(metric: str, offset: float) -> None:
    """Where ‖x‖ is far above the distances between rows, the float32 form ‖x‖² + ‖y‖² − 2x·y finds noise."""
    x = case(metric, 40, 1, 600)[0] + offset
    found = distances(x, x, metric)
    others = found[~torch.eye(40, dtype=torch.bool)]
    assert (found.diagonal() >= 0).all() and found.diagonal().max() < 1e-4 * others.min()
    if metric == "l2":
        assert found.diagonal().max() <= 1e-7 * x.norm(dim=1).max()
        np.testing.assert_allclose(found.numpy(), plain(x.numpy(), x.numpy(), "l2"), rtol=1e-6, atol=1e-7 * x.norm(dim=1).max())
    if metric in ("l1", "chi2"):
        assert (found.diagonal() == 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_tiles_of_any_size_give_the_same(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = case(metric, 9, 11, 5)
    expected = distances(x, y, metric)
    for rows in (1, 2, 3, 9, 10):
        monkeypatch.setattr(module, "_TILE_BYTES", 4 * 5 * rows**2 if metric == "chi2" else 8 * 5 * rows)
        torch.testing.assert_close(distances(x, y, metric), expected, rtol=1e-6, atol=1e-7)
    x, y = x.mul(8).round(), y.mul(8).round()
    monkeypatch.setattr(module, "_TILE_BYTES", 1)  # less than one pair takes
    small = distances(x, y, metric)
    monkeypatch.undo()
    if metric in ("l1", "l2"):  # exact for whole numbers
        assert torch.equal(small, distances(x, y, metric))
    np.testing.assert_allclose(small.numpy(), plain(x.numpy(), y.numpy(), metric), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("metric", ["l1", "chi2"])
def test_differences_are_never_all_held(metric: str) -> None:
    """300 × 300 × 1,000 differences are 360 MB; what torch allocates at once stays near a tile."""
    x = case(metric, 300, 1, 1000)[0]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        distances(x, x, metric)
    largest = max(event.self_cpu_memory_usage // max(1, event.count) for event in profiled.key_averages())
    assert largest <= 2 * module._TILE_BYTES


def test_scale_does_not_change_what_does_not_depend_on_it() -> None:
    for metric in ("cosine", "kl"):
        x, y = case(metric, 6, 7, 20)
        torch.testing.assert_close(distances(x * 1e6, y * 1e-6, metric), distances(x, y, metric), rtol=1e-5, atol=1e-6)


def test_small_histograms_are_not_empty_ones() -> None:
    x, y = case("chi2", 6, 7, 20)
    torch.testing.assert_close(distances(x * 1e-9, y * 1e-9, "chi2") * 1e9, distances(x, y, "chi2"), rtol=1e-5, atol=1e-6)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="metric 'euclid' is unknown; choose one of l2, l1, chi2, kl, cosine"):
        distances(torch.zeros((1, 1)), torch.zeros((1, 1)), "euclid")
    with pytest.raises(ValueError, match="metric 'L1' is unknown"):
        check_metric("L1")
    with pytest.raises(ValueError, match=r"got shapes \(2, 3\) and \(2, 4\)"):
        distances(torch.zeros((2, 3)), torch.zeros((2, 4)), "l2")
    with pytest.raises(ValueError, match=r"got shapes \(3,\) and"):
        distances(torch.zeros(3), torch.zeros((2, 3)), "l2")
    for metric in HISTOGRAM_METRICS:
        for x, y in ((-1.0, 1.0), (1.0, -1.0)):
            with pytest.raises(ValueError, match=f"metric '{metric}' compares histograms, and these have negative values"):
                distances(torch.full((2, 3), x), torch.full((2, 3), y), metric)
