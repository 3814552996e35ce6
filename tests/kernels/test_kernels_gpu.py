"""The kernels on a GPU: the cases of test_kernels.py against float64, and what only a device shows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from kernel_cases import SHAPES, Assignment, check_assignment, check_vlad
from torch import Tensor

from gpuannot import kernels
from gpuannot.errors import DeviceError
from gpuannot.kernels.stream import LARGEST_DIMS
from gpuannot.kernels.vlad_plan import Step

pytestmark = pytest.mark.gpu

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CHAIN = {"mass": True, "intra": False, "signed_sqrt": True, "l2": True}
RAW = {"mass": False, "intra": False, "signed_sqrt": False, "l2": False}
DEVICES = [f"cuda:{index}" for index in range(max(1, torch.cuda.device_count()))]


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, device: str = "cuda") -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype).to(device)


def padded(tensor: Tensor, padding: int) -> Tensor:
    """The same values with NaN between the rows."""
    wide = torch.full((*tensor.shape[:-1], tensor.shape[-1] + padding), torch.nan, dtype=tensor.dtype, device=tensor.device)
    wide[..., : tensor.shape[-1]] = tensor
    return wide[..., : tensor.shape[-1]]


def centers_like(x: Tensor, count: int, same_type: bool, seed: int = 1) -> Tensor:
    return randn(count, x.shape[-1], dtype=x.dtype if same_type else torch.float32, seed=seed, device=str(x.device))


def as_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


def assigned(x: Tensor, c: Tensor, method: str | None = None) -> Assignment:
    invalid = torch.zeros(1, dtype=torch.int64, device=x.device)
    index, distance = kernels.nearest_center(x, c, return_distance=True, invalid_count=invalid, method=method)
    return Assignment(index.cpu().numpy(), distance.cpu().numpy(), int(invalid))


@pytest.mark.parametrize("same_type", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dims", sorted({shape[0] for shape in SHAPES}))
def test_nearest_center_is_the_argmin(dims: int, dtype: torch.dtype, same_type: bool) -> None:
    for case, (_, centers, rows, padding) in enumerate(shape for shape in SHAPES if shape[0] == dims):
        x = padded(randn(rows, dims, dtype=dtype, seed=case), padding)
        c = centers_like(x, centers, same_type)
        method = "MMA" if same_type and dtype != torch.float32 else "TILED"
        check_assignment(assigned(x, c), as_numpy(x), as_numpy(c), method)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("dims", sorted({shape[0] for shape in SHAPES}))
def test_mma_and_stream_agree_in_every_bit(dims: int, dtype: torch.dtype) -> None:
    for case, (_, centers, rows, padding) in enumerate(shape for shape in SHAPES if shape[0] == dims):
        x = padded(randn(100 * rows, dims, dtype=dtype, seed=case), padding)
        c = centers_like(x, centers, True)
        mma, stream = (kernels.nearest_center(x, c, return_distance=True, method=method) for method in ("MMA", "STREAM"))
        assert torch.equal(mma[0], stream[0]) and torch.equal(mma[1], stream[1])


@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.get_device_capability() != (9, 0), reason="needs capability 9.0")
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("dims", sorted({shape[0] for shape in SHAPES if shape[0] <= LARGEST_DIMS["WGMMA"]}))
def test_wgmma_is_the_argmin(dims: int, dtype: torch.dtype) -> None:
    for case, (_, centers, rows, padding) in enumerate(shape for shape in SHAPES if shape[0] == dims):
        x = padded(randn(rows if case % 2 else 100 * rows, dims, dtype=dtype, seed=case), padding)
        c = centers_like(x, centers, True)
        check_assignment(assigned(x, c, "WGMMA"), as_numpy(x), as_numpy(c), "MMA")


@pytest.mark.parametrize("spread", [1.0, 1e-4, 1e-6, 0.0])
@pytest.mark.parametrize("dims", [1, 31, 64, 100, 128])
def test_screening_gives_plains_bits(dims: int, spread: float) -> None:
    for centers, padding in ((64, 0), (300, 4), (7, 1)):
        x = padded(randn(10_000, dims), padding)
        x[5, 0], x[6, 0] = torch.nan, 3e38
        c = randn(1, dims, seed=1) + spread * randn(centers, dims, seed=2)
        plain, screened = (kernels.nearest_center(x, c, return_distance=True, method=method) for method in ("PLAIN", "SCREEN"))
        assert torch.equal(plain[0], screened[0]) and torch.equal(plain[1].nan_to_num(-1), screened[1].nan_to_num(-1))


@pytest.mark.parametrize("same_type", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties_go_to_the_lowest_index(dtype: torch.dtype, same_type: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(-4, 5, (1000, 64), generator=generator).to(dtype).cuda()
    distinct = torch.randint(-4, 5, (50, 64), generator=generator)
    c = distinct.repeat(3, 1).to(dtype if same_type else torch.float32).cuda()
    result = assigned(x, c)
    distances = torch.cdist(x.double(), c.double(), compute_mode="donot_use_mm_for_euclid_dist").square().round().cpu().numpy()
    assert np.array_equal(result.index, distances.argmin(1))
    assert np.array_equal(result.distance, distances.min(1))


@pytest.mark.parametrize("same_type", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_are_invalid_and_alone_in_it(value: float, dtype: torch.dtype, same_type: bool) -> None:
    x = randn(300, 64, dtype=dtype)
    c = centers_like(x, 100, same_type)
    clean = assigned(x, c)
    wrong = [0, 15, 16, 127, 128, 255, 256, 299]
    x[wrong, torch.arange(8) * 9] = value
    result = assigned(x, c)
    others = np.delete(np.arange(300), wrong)
    assert (result.index[wrong] == -1).all() and np.isnan(result.distance[wrong]).all() and result.invalid == 8
    assert np.array_equal(result.index[others], clean.index[others])
    assert np.array_equal(result.distance[others], clean.distance[others])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dims", sorted({shape[0] for shape in SHAPES}))
def test_vlad_against_float64(dims: int, dtype: torch.dtype) -> None:
    for case, (_, centers, patches, padding) in enumerate(shape for shape in SHAPES if shape[0] == dims):
        x = padded(randn(3, patches, dims, dtype=dtype, seed=case), padding)
        c = centers_like(x, centers, same_type=False)
        labels = torch.randint(
            -2, centers + 2, (3, patches), dtype=torch.int32, generator=torch.Generator().manual_seed(case)
        ).cuda()
        steps = Step((5 * case + dims) % 16)
        skipped = torch.full((3,), -7, dtype=torch.int32, device="cuda")
        wanted = {step.name.lower(): step in steps for step in Step if step.name}
        out = kernels.vlad(x, labels, c, skipped=skipped, **wanted)
        check_vlad(as_numpy(out), as_numpy(x), labels.cpu().numpy(), as_numpy(c), steps)
        assert torch.equal(skipped.long(), ((labels < 0) | (labels >= centers)).sum(1))


@pytest.mark.parametrize("images", [1, 3, 300])
@pytest.mark.parametrize("same_type", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_assign_vlad_is_vlad_of_nearest_center_bit_for_bit(dtype: torch.dtype, same_type: bool, images: int) -> None:
    for dims, centers, patches, padding in ((64, 64, 196, 0), (100, 70, 197, 1), (31, 7, 33, 0), (3, 2, 784, 0), (512, 256, 50, 8)):
        x = padded(randn(images, patches, dims, dtype=dtype), padding)
        x[0, patches // 2, dims // 2] = torch.nan
        c = centers_like(x, centers, same_type)
        labels = kernels.nearest_center(x.reshape(-1, dims), c)
        counted = [torch.full((images,), -7, dtype=torch.int32, device="cuda") for _ in range(2)]
        expected = kernels.vlad(x, labels.view(images, patches), c, skipped=counted[0], **CHAIN)
        assert torch.equal(kernels.assign_vlad(x, c, skipped=counted[1], **CHAIN), expected)
        assert torch.equal(*counted) and counted[0][0] == 1


def test_images_get_the_same_bits_alone_and_in_a_batch() -> None:
    x, c = randn(300, 196, 64), randn(64, 64, seed=1)
    batch = kernels.assign_vlad(x, c, **CHAIN)
    for image in (0, 17, 299):  # alone, several blocks share it
        assert torch.equal(kernels.assign_vlad(x[image : image + 1], c, **CHAIN)[0], batch[image])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_runs_give_the_same_bits(dtype: torch.dtype) -> None:
    x = randn(300, 196, 64, dtype=dtype)
    c = centers_like(x, 64, same_type=True)
    first = kernels.assign_vlad(x, c, **CHAIN)
    for _ in range(5):
        assert torch.equal(kernels.assign_vlad(x, c, **CHAIN), first)


def test_offsets_beyond_2_to_the_31() -> None:
    dims, rows = 64, 2**31 // 64 + 1000
    if torch.cuda.mem_get_info()[0] < rows * dims * 2 + 2**30:
        pytest.skip("needs 6 GB of free device memory")
    x = torch.zeros(rows, dims, dtype=torch.float16, device="cuda")
    c = torch.eye(dims, dtype=torch.float16, device="cuda")
    x[-1000:] = c[torch.arange(1000) % dims]
    for centers in (c, c.float()):  # tensor cores, CUDA cores
        index = kernels.nearest_center(x, centers)
        assert torch.equal(index[-1000:].cpu(), (torch.arange(1000) % dims).int())
        assert not index[: rows - 1000].any()
    images = x[-(rows // 200 * 200) :].view(-1, 200, dims)
    few = c[:2].contiguous()  # 2 centres keep the output small
    out = kernels.assign_vlad(images, few, **RAW)
    labels = kernels.nearest_center(images.view(-1, dims), few)
    assert isinstance(labels, Tensor)
    given = kernels.vlad(images, labels.view(-1, 200), few, **RAW)
    assert torch.equal(out, given)
    assert torch.equal(out[-10:], kernels.assign_vlad(images[-10:], few, **RAW)) and out[-1].any()


def calls(x: Tensor, c: Tensor, half_norms: Tensor) -> list[Callable[[], Tensor]]:
    """Each function of the package on the same images."""
    labels = torch.zeros(x.shape[:2], dtype=torch.int32, device=x.device)

    def index() -> Tensor:
        result = kernels.nearest_center(x.view(-1, x.shape[-1]), c, half_norms)
        assert isinstance(result, Tensor)
        return result

    return [index, lambda: kernels.vlad(x, labels, c, **CHAIN), lambda: kernels.assign_vlad(x, c, half_norms, **CHAIN)]


@pytest.mark.parametrize("images", [2, 300])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_waits_for_the_device(dtype: torch.dtype, images: int) -> None:
    x = randn(images, 196, 64, dtype=dtype)
    c = centers_like(x, 64, same_type=True)
    half_norms = kernels.check_centers(c)
    for call in calls(x, c, half_norms):
        call()
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # about a second: a call that waited would return after it
    done = torch.cuda.Event()
    done.record()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for call in calls(x, c, half_norms):
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not done.query()
    torch.cuda.synchronize()


def test_launches_go_to_the_current_stream_after_what_is_queued_there() -> None:
    source, x, c = randn(300, 196, 64), torch.zeros(300, 196, 64, device="cuda"), randn(64, 64, seed=1)
    half_norms = kernels.check_centers(c)
    expected = [call() for call in calls(source, c, half_norms)]
    pending = calls(x, c, half_norms)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        x.copy_(source)  # a launch on another stream would run before it and see zeros
        results = [call() for call in pending]
    stream.synchronize()
    for result, wanted in zip(results, expected, strict=True):
        assert torch.equal(result, wanted)


def test_a_tensor_freed_while_in_use_on_another_stream_is_not_reused() -> None:
    c = randn(64, 64, seed=1)
    half_norms = kernels.check_centers(c)
    values = randn(300, 196, 64)
    expected = kernels.assign_vlad(values, c, half_norms, **CHAIN)
    stream = torch.cuda.Stream()
    x = values.clone()  # made on the default stream, used on the other
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        out = kernels.assign_vlad(x, c, half_norms, **CHAIN)
    del x
    for _ in range(4):
        torch.full_like(values, torch.nan)  # takes x's memory at once if the allocator may
    stream.synchronize()
    assert torch.equal(out, expected)


@pytest.mark.parametrize("images", [2, 300])
def test_calls_can_be_captured_in_a_cuda_graph(images: int) -> None:
    x, c = randn(images, 196, 64), randn(64, 64, seed=1)
    half_norms = kernels.check_centers(c)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls(x, c, half_norms):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [call() for call in calls(x, c, half_norms)]
    for seed in (5, 6):
        x.copy_(randn(images, 196, 64, seed=seed))
        graph.replay()
        for result, call in zip(results, calls(x, c, half_norms), strict=True):
            assert torch.equal(result, call())


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_by_its_index(device: str) -> None:
    x, c = randn(300, 20, 64, device=device), randn(64, 64, seed=1, device=device)
    out = kernels.assign_vlad(x, c, **CHAIN)  # the current device stays cuda:0
    assert out.device == torch.device(device) and torch.cuda.current_device() == 0
    assert torch.equal(out.cpu(), kernels.assign_vlad(x.to("cuda:0"), c.to("cuda:0"), **CHAIN).cpu())


def test_tensors_on_two_devices_and_on_none() -> None:
    x, c = randn(5, 64), randn(3, 64)
    with pytest.raises(ValueError, match="different devices"):
        kernels.nearest_center(x, c.cpu())
    with pytest.raises(DeviceError, match="not on cpu"):
        kernels.nearest_center(x.cpu(), c.cpu())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty_batches(dtype: torch.dtype) -> None:
    c = randn(5, 64, dtype=dtype)
    index, distance = kernels.nearest_center(randn(0, 64, dtype=dtype), c, return_distance=True)
    assert index.shape == distance.shape == (0,)
    assert kernels.assign_vlad(randn(0, 196, 64, dtype=dtype), c, **CHAIN).shape == (0, 320)
    for images in (2, 300):
        assert not kernels.assign_vlad(randn(images, 0, 64, dtype=dtype), c, **CHAIN).any()
