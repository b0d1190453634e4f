"""Texts of events are one line, printable and short."""

from __future__ import annotations

from typing import Any

import pytest

from simsmoe_cli.monitor.draw.sanitize import clean


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain words", "plain words"),
        ("two\nlines\t\x1b[31mred", "two lines  [31mred"),
        ("ünïcödé", "ünïcödé"),
        (None, ""),
        (7, ""),
        (["text"], ""),
    ],
)
def test_a_text_is_safe_to_print(value: Any, shown: str) -> None:
    assert clean(value) == shown


def test_a_long_text_is_cut() -> None:
    assert clean("abcdef", 6) == "abcdef"
    assert clean("abcdefg", 6) == "abcde…"
    assert len(clean("x" * 10_000)) == 400
