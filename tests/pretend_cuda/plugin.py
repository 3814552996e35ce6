"""The tests that need a GPU, on the pretended one: ``PYTHONPATH=tests python -m pytest -p pretend_cuda.plugin -m gpu``."""

from __future__ import annotations

import pytest

from .device import PretendCuda

_pretended = PretendCuda()


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    _pretended.__enter__()


def pytest_unconfigure() -> None:
    _pretended.__exit__(None, None, None)
