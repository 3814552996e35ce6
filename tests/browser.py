"""Headless Chromium, and a reader of pages in it, for the tests that look at pages. Skipped where selenium is missing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install '.[test]'")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

__all__ = ["ActionChains", "By", "Keys", "Reader", "Select", "WebDriverWait", "chromium", "touch"]

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,900"
)


@contextmanager
def chromium(folder: Path) -> Iterator[Any]:
    """A browser that keeps its files in ``folder``."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS.split(), f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with open(os.devnull, "w") as nowhere:
        started = webdriver.Chrome(options=options, service=Service(driver, log_output=nowhere))
        try:
            yield started
        finally:
            started.quit()


class Reader:
    """A reader of one page; at the end of a test nothing may have been asked of a network, and the console must be empty."""

    def __init__(self, browser: Any, page: Path) -> None:
        self.browser, self.address = browser, page.as_uri()
        browser.get_log("performance")
        browser.get_log("browser")
        browser.get("about:blank")
        browser.get(self.address)

    def all(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements(By.CSS_SELECTOR, selector))

    def one(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def script(self, text: str, *arguments: Any) -> Any:
        return self.browser.execute_script(text, *arguments)

    def choose(self, selector: str, value: str) -> None:
        Select(self.one(selector)).select_by_value(value)

    def press(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()

    def turns_to(self, tab: str) -> bool:
        """Whether the page comes to show this tab: a changed address is told to it after what changed it has returned."""
        wait = WebDriverWait(self.browser, 5, poll_frequency=0.05)
        return bool(wait.until(lambda _: self.one(".tabs [aria-current]").text == tab))

    def comes_to(self, label: str) -> bool:
        """Whether the focus comes to what is labelled so: after a dialog, the browser gives it back first."""
        wait = WebDriverWait(self.browser, 5, poll_frequency=0.05)
        return bool(wait.until(lambda _: self.focused.get_attribute("aria-label") == label))

    @property
    def names(self) -> list[str]:
        return [str(element.get_attribute("textContent")) for element in self.all("#gallery .name")]

    @property
    def count(self) -> str:
        return str(self.one("#count").text)

    @property
    def focused(self) -> Any:
        return self.browser.switch_to.active_element

    def check_silence(self) -> None:
        assert self.browser.get_log("browser") == []
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        # The browser's own first tab asks for things too.
        asked = [each["request"]["url"] for each in requests if each["documentURL"].startswith(self.address)]
        assert self.address in asked
        assert [url for url in asked if not url.startswith(("data:", self.address, "chrome://resources/"))] == []


def touch(reader: Reader, element: Any) -> None:
    """As a finger does, where it can."""
    reader.script("arguments[0].scrollIntoView({block: 'center'})", element)
    place = reader.script("const r = arguments[0].getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]", element)
    point = [{"x": place[0], "y": place[1]}]
    reader.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": point})
    reader.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
