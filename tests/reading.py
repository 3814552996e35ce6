"""Inputs as the decoder reads them."""

from __future__ import annotations

from collections.abc import Iterable

from gpuannot.errors import ImageError
from gpuannot.images.containers import Containers
from gpuannot.images.input import Input


def read_in_order(items: Iterable[Input]) -> list[bytes | str]:
    """The content of each input, or the stage and reason why there is none."""
    found: list[bytes | str] = []
    with Containers() as containers:
        for item in items:
            try:
                found.append(containers.ready(item).read())
            except ImageError as error:
                assert error.path == item.name
                found.append(f"{error.stage}: {error.reason}")
    return found
