"""Absolute paths of a machine are cut to names."""

from __future__ import annotations

from typing import Any

import pytest

from simsmoe_cli.collapse.show.local_paths import without_paths


@pytest.mark.parametrize(
    ("value", "cut"),
    [
        ("/home/me/model", "model"),
        ("~/models/mine.bin and more", "mine.bin and more"),
        (r"C:\Users\me\model", "model"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("runs/mine", "runs/mine"),
        ({"a": ["/x/y/z", 3, None]}, {"a": ["z", 3, None]}),
    ],
)
def test_paths_become_names_and_all_else_stays(value: Any, cut: Any) -> None:
    assert without_paths(value) == cut
