"""Float32 products without TF32, and the caller's settings as they were."""

from __future__ import annotations

import threading

import pytest
import torch
from cuda_on_cpu import run_isolated

from gpuannot.system.precision import exact_float32


def matmul() -> str:
    return torch._C._get_fp32_precision_getter("cuda", "matmul")


def inherited_stays_inherited() -> None:
    torch.backends.fp32_precision = "tf32"
    with exact_float32():
        assert matmul() == "ieee"
    assert matmul() == "tf32"
    torch.backends.fp32_precision = "ieee"
    assert matmul() == "ieee"


def the_old_interface_reads_what_it_set() -> None:
    torch.set_float32_matmul_precision("high")
    with exact_float32(), exact_float32():
        assert matmul() == "ieee"
    assert torch.get_float32_matmul_precision() == "high" and torch.backends.cuda.matmul.allow_tf32


def the_last_thread_puts_it_back() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with exact_float32():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    with exact_float32():
        thread.start()
        assert entered.wait(10)
    assert matmul() == "ieee"  # the other one is still inside
    leave.set()
    thread.join()
    assert matmul() == "tf32"


def an_error_puts_it_back() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with pytest.raises(ValueError, match="within"), exact_float32():
        raise ValueError("within")
    assert matmul() == "tf32"


@pytest.mark.parametrize(
    "case",
    [inherited_stays_inherited, the_old_interface_reads_what_it_set, the_last_thread_puts_it_back, an_error_puts_it_back],
    ids=lambda case: case.__name__,
)
def test_settings_of_the_caller(case: object) -> None:
    status, written = run_isolated(f"system.test_precision:{case.__name__}")  # type: ignore[attr-defined]
    assert status == 0, written
