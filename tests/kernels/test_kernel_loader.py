"""Arguments, plans and the loader's errors, on a machine without a GPU."""

from __future__ import annotations

import itertools
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gpuannot import kernels
from gpuannot.errors import DeviceError
from gpuannot.kernels import checks, loader
from gpuannot.kernels.plan import plan_nearest_center, source_code, vector_width
from gpuannot.kernels.stream import stream_sizes
from gpuannot.kernels.vlad_plan import Step, needs_squares, plan_assign_vlad, plan_vlad

CHAIN = {"mass": False, "intra": False, "signed_sqrt": True, "l2": True}


def test_importing_takes_no_cupy_and_no_gpu() -> None:
    code = "import sys, gpuannot.kernels; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def wrong_arguments() -> dict[str, tuple[type[Exception], str, Any]]:
    """Name → (error, what its message says, a call of kernels that must raise it)."""
    x, c, labels = torch.zeros(5, 4), torch.zeros(3, 4), torch.zeros(2, 5, dtype=torch.int32)
    images = torch.zeros(2, 5, 4)
    nearest, vlad, assign = kernels.nearest_center, kernels.vlad, kernels.assign_vlad
    half, meta = x.half(), torch.zeros(3, 4, device="meta")
    return {
        "an array": (TypeError, "descriptors is a ndarray", lambda: nearest(np.zeros((5, 4)), c)),
        "float64": (TypeError, "descriptors is torch.float64", lambda: nearest(x.double(), c)),
        "one descriptor": (ValueError, r"descriptors has shape \(4,\)", lambda: nearest(x[0], c)),
        "strided dimensions": (ValueError, r"strides \(1, 5\): the last dimension", lambda: nearest(torch.zeros(4, 5).T, c)),
        "other dimensions": (ValueError, "centers has 4 dimensions and descriptors 3", lambda: nearest(x[:, :3], c)),
        "no centres": (ValueError, r"centers has shape \(0, 4\): m must be 1", lambda: nearest(x, c[:0])),
        "no dimensions": (ValueError, r"centers has shape \(3, 0\): n must be 1", lambda: nearest(x[:, :0], c[:, :0])),
        "half centres": (TypeError, "centers is torch.float16: expected torch.float32", lambda: nearest(x, c.half())),
        "bfloat16 centres": (TypeError, "or the descriptors' torch.float16", lambda: nearest(half, c.bfloat16())),
        "strided centres": (ValueError, "centers has strides .* must be contiguous", lambda: nearest(x, torch.zeros(3, 8)[:, :4])),
        "half norms": (ValueError, r"half_norms has shape \(2,\): expected \(3,\)", lambda: nearest(x, c, torch.zeros(2))),
        "half half norms": (TypeError, "half_norms is torch.float16", lambda: nearest(x, c, torch.zeros(3).half())),
        "int32 counter": (
            TypeError,
            "invalid_count is torch.int32",
            lambda: nearest(x, c, invalid_count=torch.zeros(1, dtype=torch.int32)),
        ),
        "two devices": (ValueError, "descriptors on cpu, centers on meta", lambda: nearest(x, meta)),
        "the CPU": (DeviceError, "not on cpu: on the CPU use gpuannot.reference", lambda: nearest(x, c)),
        "an empty batch on the CPU": (DeviceError, "not on cpu", lambda: nearest(x[:0], c)),
        "descriptors without images": (ValueError, r"descriptors has shape \(5, 4\)", lambda: vlad(x, labels, c, **CHAIN)),
        "int64 labels": (TypeError, "labels is torch.int64", lambda: vlad(images, labels.long(), c, **CHAIN)),
        "fewer labels": (ValueError, r"labels has shape \(2, 4\).*\(2, 5\)", lambda: vlad(images, labels[:, :4], c, **CHAIN)),
        "strided labels": (
            ValueError,
            "labels has strides",
            lambda: vlad(images, torch.zeros(5, 2, dtype=torch.int32).T, c, **CHAIN),
        ),
        "out": (
            ValueError,
            r"out has shape \(2, 3\): expected \(2, 12\)",
            lambda: vlad(images, labels, c, out=torch.zeros(2, 3), **CHAIN),
        ),
        "half out": (TypeError, "out is torch.float16", lambda: assign(images, c, out=torch.zeros(2, 12).half(), **CHAIN)),
        "strided out": (
            ValueError,
            "out has strides",
            lambda: assign(images, c, out=torch.zeros(2, 24)[:, ::2], **CHAIN),
        ),
        "skipped": (
            ValueError,
            r"skipped has shape \(3,\)",
            lambda: assign(images, c, skipped=torch.zeros(3, dtype=torch.int32), **CHAIN),
        ),
        "vlad on the CPU": (DeviceError, "not on cpu", lambda: vlad(images, labels, c, **CHAIN)),
        "assign_vlad on the CPU": (DeviceError, "not on cpu", lambda: assign(images, c, **CHAIN)),
    }


@pytest.mark.parametrize("name", wrong_arguments())
def test_wrong_arguments_are_named(name: str) -> None:
    error, message, call = wrong_arguments()[name]
    with pytest.raises(error, match=message):
        call()


def test_right_arguments_pass_the_checks_up_to_the_device() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x, c = torch.zeros(5, 8, dtype=dtype)[:, :4], torch.zeros(3, 4, dtype=dtype)
        with pytest.raises(DeviceError, match="not on cpu"):
            checks.check_nearest_center(x, c, torch.zeros(3), torch.zeros(1, dtype=torch.int64))
        images = torch.zeros(2, 7, 8, dtype=dtype)[:, 1:, :4]
        with pytest.raises(DeviceError, match="not on cpu"):
            checks.check_vlad(images, torch.zeros(2, 6, dtype=torch.int32), c, None, torch.zeros(2, dtype=torch.int32))


def test_check_centers_returns_half_norms_or_names_the_wrong_centre() -> None:
    centers = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    expected = (centers.double() ** 2).sum(1) / 2
    assert torch.equal(kernels.check_centers(centers), expected.float())
    for value in (torch.nan, torch.inf, 3e38):
        wrong = centers.clone()
        wrong[2, 1] = value
        with pytest.raises(ValueError, match=r"1 of 4 centers .* at row 2"):
            kernels.check_centers(wrong)
    with pytest.raises(ValueError, match="m must be 1"):
        kernels.check_centers(centers[:0])


def fake_cupy(runtime: int = 13000, driver: int = 13000) -> ModuleType:
    module = ModuleType("cupy")
    module.cuda = SimpleNamespace(
        runtime=SimpleNamespace(runtimeGetVersion=lambda: runtime, driverGetVersion=lambda: driver),
        Device=lambda index: SimpleNamespace(attributes={"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 232448}),
    )
    return module


@pytest.fixture
def fresh_loader(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The loader without what it remembers, on a torch that says it is built for CUDA 13.0."""
    for remembered in (loader._cupy, loader.device_limits):
        remembered.cache_clear()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    yield monkeypatch
    for remembered in (loader._cupy, loader.device_limits):
        remembered.cache_clear()


@pytest.mark.parametrize(
    ("cuda", "cupy", "message"),
    [
        (None, fake_cupy(), "torch is built without CUDA"),
        ("13.0", None, "need CuPy, .* pip install cupy-cuda13x"),
        ("12.8", fake_cupy(), "CuPy is built for CUDA 13 and torch for CUDA 12.8.* pip install cupy-cuda12x"),
        ("13.0", fake_cupy(driver=12080), "driver supports CUDA up to 12.8, .* update the driver"),
    ],
)
def test_what_is_missing_is_said(fresh_loader: Any, cuda: str | None, cupy: ModuleType | None, message: str) -> None:
    fresh_loader.setattr(torch.version, "cuda", cuda)
    fresh_loader.setitem(sys.modules, "cupy", cupy)  # None makes the import fail
    with pytest.raises(DeviceError, match=message):
        loader.device_limits(torch.device("cuda", 0))


def test_an_old_device_is_refused_and_a_new_one_described(fresh_loader: Any) -> None:
    fresh_loader.setitem(sys.modules, "cupy", fake_cupy())
    fresh_loader.setattr(torch.cuda, "get_device_name", lambda device: "Tesla P100")
    fresh_loader.setattr(torch.cuda, "get_device_capability", lambda device: (6, 0))
    with pytest.raises(DeviceError, match=r"Tesla P100 has compute capability 6\.0, .* 7\.5 or newer"):
        loader.device_limits(torch.device("cuda", 0))
    fresh_loader.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert loader.device_limits(torch.device("cuda", 0)) == ((9, 0), 132, 232448)


def test_a_source_carries_its_headers() -> None:
    for name in ("nearest_center.cu", "vlad.cu", "assign_vlad.cu", "max_pool.cu", "normalise_pixels.cu"):
        code = source_code(name)
        assert '#include "' not in code and "typedef float element;" in code


def test_vector_loads_ask_for_alignment_of_everything() -> None:
    assert vector_width("float32", 64, (64,), 16) == 4
    assert vector_width("float16", 64, (12800, 64), 16) == 8
    assert vector_width("float16", 64, (64,), 8) == 1
    assert vector_width("float16", 64, (68,), 16) == 1
    assert vector_width("bfloat16", 60, (64,), 16) == 1


def test_the_version_follows_type_shape_and_device() -> None:
    def chosen(*arguments: Any, **device: Any) -> str:
        return " ".join(plan_nearest_center(1000, *arguments, **device).options)

    assert "METHOD_TILED" in chosen(64, 64, "float32", "float32", 64)
    assert "TILE_CENTERS=64" in chosen(64, 64, "float32", "float32", 64)
    assert "TILE_CENTERS=128" in chosen(64, 65, "float32", "float32", 64)
    assert "METHOD_PLAIN" in chosen(3, 64, "float32", "float32", 3)
    assert "METHOD_STREAM" in chosen(64, 64, "bfloat16", "bfloat16", 64)
    assert "DEPTH_BLOCKS=16" in chosen(264, 64, "float16", "float16", 264)
    assert "METHOD_MMA" in chosen(64, 64, "bfloat16", "bfloat16", 64, method="MMA")
    assert "METHOD_MMA" in chosen(64, 64, "bfloat16", "bfloat16", 65)  # single elements
    assert "METHOD_MMA" in chosen(64, 1600, "bfloat16", "bfloat16", 64)  # a codebook of more than shared memory
    assert "METHOD_MMA" in chosen(520, 64, "bfloat16", "bfloat16", 520)
    for capability in ((8, 0), (10, 0)):  # not modelled
        assert "METHOD_MMA" in chosen(64, 64, "bfloat16", "bfloat16", 64, capability=capability)
    assert "METHOD_TILED" in chosen(64, 64, "bfloat16", "float32", 64)
    assert "METHOD_TILED" in chosen(64, 64, "float16", "float16", 64, capability=(7, 5))


def test_grids_reach_every_row_of_huge_inputs() -> None:
    rows = 2**35 + 1
    plan = plan_nearest_center(rows, 64, 64, "float32", "float32", 64)
    assert plan.grid == (2**28 + 1, 1, 1) and np.int64(rows) in plan.arguments


def test_a_streaming_grid_is_what_the_device_holds_at_a_time() -> None:
    plan = plan_nearest_center(2**35 + 1, 64, 64, "bfloat16", "bfloat16", 64, multiprocessors=100)
    assert plan.grid == (200, 1, 1) and 2 * (plan.shared_bytes + 1024) <= 228 * 1024
    assert plan_nearest_center(257, 64, 64, "bfloat16", "bfloat16", 64).grid == (2, 1, 1)
    large = plan_nearest_center(2**20, 256, 256, "bfloat16", "bfloat16", 256)
    assert "-DMETHOD_STREAM" in large.options and large.grid == (132, 1, 1) and large.shared_bytes <= 227 * 1024
    wgmma = plan_nearest_center(2**35 + 1, 64, 256, "bfloat16", "bfloat16", 64, multiprocessors=100, method="WGMMA")
    assert wgmma.grid == (100, 1, 1) and wgmma.block == (512, 1, 1) and "-arch=sm_90a" in wgmma.options
    assert plan_nearest_center(193, 256, 999, "float16", "float16", 256, method="WGMMA").grid == (2, 1, 1)
    for dims, centers in ((64, 10**6), (512, 1000)):  # parts
        sizes = stream_sizes(2**20, dims, centers, 8, 132, 99 * 1024)
        assert sizes.part_tiles % 2 == 0 < sizes.part_tiles and sizes.shared_bytes <= 99 * 1024
    with pytest.raises(ValueError, match="'STREAM' takes up to 512 dimensions, not 513"):
        stream_sizes(1, 513, 1, 1, 132, 227 * 1024)


def test_code_of_one_architecture_is_compiled_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings, which calls NVRTC")

    class AsCupyCallsIt:
        NVRTCError = RuntimeError

        def createProgram(self, code: str, name: str, headers: tuple[str, ...], names: tuple[str, ...]) -> Any:
            return nvrtc.nvrtcCreateProgram(code.encode(), name.encode(), 0, [], [])[1]

        def compileProgram(self, program: Any, options: tuple[str, ...]) -> None:
            (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
            if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
                raise RuntimeError(status.name)

        def getCUBIN(self, program: Any) -> bytes:
            code = b" " * nvrtc.nvrtcGetCUBINSize(program)[1]
            nvrtc.nvrtcGetCUBIN(program, code)
            return code

        def getProgramLog(self, program: Any) -> str:
            log = b" " * nvrtc.nvrtcGetProgramLogSize(program)[1]
            nvrtc.nvrtcGetProgramLog(program, log)
            return log.decode()

        def destroyProgram(self, program: Any) -> None:
            nvrtc.nvrtcDestroyProgram(program)

    try:
        nvrtc.nvrtcVersion()
    except (OSError, RuntimeError) as error:
        pytest.skip(f"needs the NVRTC library: {error}")
    cupy = SimpleNamespace(cuda=SimpleNamespace(nvrtc=AsCupyCallsIt()))
    plan = plan_nearest_center(1, 64, 64, "bfloat16", "bfloat16", 64, method="WGMMA")
    options = ("-std=c++17", *plan.options)
    cubin = loader._compile(cupy, plan.source, source_code(plan.source), options)
    assert cubin[:4] == b"\x7fELF" and b"nearest_center" in cubin
    with pytest.raises(RuntimeError, match="undeclared"):
        loader._compile(cupy, plan.source, "__global__ void broken() { undeclared = 1; }", options)
    for_the_device = tuple(option.replace("sm_90a", "sm_90") for option in options)
    with pytest.raises(RuntimeError, match=r"wgmma|sm_90"):
        loader._compile(cupy, plan.source, source_code(plan.source), for_the_device)


def test_images_share_blocks_only_when_they_are_few() -> None:
    strides = (196 * 64, 64)
    (many,) = plan_vlad(256, 196, 64, 64, "float32", *strides, 196, Step.L2)
    assert many.grid == (256, 1, 1) and "-DSTAGED=1" in many.options
    few = plan_vlad(1, 196, 64, 64, "float32", *strides, 196, Step.L2)
    assert needs_squares(few) and few[0].grid == few[1].grid == (1, 8, 1)
    assert not needs_squares(plan_vlad(1, 196, 64, 64, "float32", *strides, 196, Step.MASS))
    (large, _) = plan_vlad(2, 10**6, 512, 65536, "float32", 512 * 10**6, 512, 10**6, Step.L2)
    assert large.shared_bytes <= 227 * 1024 and large.grid[1] * 248 >= 65536


@pytest.mark.parametrize(
    ("multiprocessors", "shared_limit"),
    [(40, 64 << 10), (72, 99 << 10), (108, 163 << 10), (132, 227 << 10)],
    ids=["T4", "A10", "A100", "H100"],
)
@pytest.mark.parametrize("centers", [1000, 4096, 8192, 65536, 2**20, 2**23])
def test_no_device_is_asked_for_more_than_it_has(centers: int, multiprocessors: int, shared_limit: int) -> None:
    for images, patches, dims in itertools.product((1, 65, 4096), (0, 1, 32, 96, 196, 4096), (1, 64, 4096)):
        strides = (patches * dims, dims, patches)
        limits = {"multiprocessors": multiprocessors, "shared_limit": shared_limit}
        for plan in plan_vlad(images, patches, dims, centers, "float32", *strides, Step.L2, **limits):
            assert plan.shared_bytes <= shared_limit and max(plan.grid[1:]) <= 65535 and plan.block[0] <= 1024


def test_assign_vlad_is_one_launch_where_it_fits() -> None:
    def planned(images: int, dims: int, centers: int, **device: Any) -> Any:
        return plan_assign_vlad(images, 196, dims, centers, "float32", "float32", 196 * dims, dims, Step.L2, **device)

    assert planned(256, 64, 64).grid == (256, 1, 1)
    assert planned(256, 128, 64).shared_bytes <= 227 * 1024 // 2
    assert planned(8, 64, 64) is not None and planned(256, 64, 100).grid == (256, 1, 1)
    assert planned(8, 64, 100) is None  # too few images, with more products than a launch is worth
    assert planned(256, 512, 1000) is None  # a vector of 2 MB
    assert planned(256, 64, 64, shared_limit=64 * 1024) is None
