"""Numbers and names as people see them."""

from __future__ import annotations

import pytest

from simsmoe_cli.collapse.findings import Estimate
from simsmoe_cli.collapse.show.format import count, every, number, worth


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "undefined"),
        (0.12345, "0.123"),
        (-0.0001, "0.000"),
        (-0.5, "-0.500"),
        (2e9, "2.000e+09"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_an_estimate_is_told_with_n_interval_and_null() -> None:
    known = Estimate(value=0.5, low=0.4, high=0.6, n=9, of="pairs", null_high=0.1)
    words = "0.5 (n = 9 pairs; 95% interval 0.4 to 0.6; null, 95% below 0.1)"
    assert worth(known, 0.95, 1) == words
    unknown = Estimate(value=None, n=0, of="layers")
    assert worth(unknown, 0.95) == "undefined (n = 0 layers; no 95% interval; no null)"


def test_lists_are_cut_and_counted() -> None:
    assert [count(1, "pair", "pairs"), count(2000, "pair", "pairs")] == ["1 pair", "2,000 pairs"]
    assert every([1]) == "1"
    assert every([1, 2, 3]) == "1, 2 and 3"
    assert every(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
