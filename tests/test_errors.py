"""How messages quote values."""

from __future__ import annotations

import pytest

from gpuannot.errors import shown


@pytest.mark.parametrize("value", ["", "sky", "it's", "a\nb", "\udcff", b"x", 7, None, ["sky"], {"a": 1}, "x" * 78])
def test_short_values_are_quoted_whole(value: object) -> None:
    assert shown(value) == repr(value)


@pytest.mark.parametrize("value", ["x" * 79, "x" * 3_000_000, "\0" * 50, b"x" * 100, ["x" * 100], list(range(1000)), '"' * 100])
def test_long_values_are_cut_at_80_signs(value: object) -> None:
    text = shown(value)
    assert len(text) == 80 and text.count("…") == 1 and repr(value).startswith(text.partition("…")[0])
    assert not isinstance(value, str) or text[-2:] == f"…{text[0]}"


def test_another_length() -> None:
    assert shown("x" * 30, 10) == "'xxxxxxx…'" and shown(123456, 4) == "123…"
