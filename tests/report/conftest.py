"""The browser that the tests of pages share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from browser import chromium

    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def read(browser: Any) -> Iterator[Any]:
    from browser import Reader

    readers: list[Reader] = []

    def opened(page: Path) -> Reader:
        readers.append(Reader(browser, page))
        return readers[-1]

    yield opened
    for reader in readers[-1:]:
        reader.check_silence()


@pytest.fixture
def phone(browser: Any) -> Iterator[None]:
    """A screen of 390 × 844 points, two pixels a point, that is touched."""
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    yield
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
