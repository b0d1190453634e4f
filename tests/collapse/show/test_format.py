"""Numbers and names as people see them."""

from __future__ import annotations

import pytest

from simsmoe_cli.collapse.findings import Estimate
from simsmoe_cli.collapse.show.format import count, every, number, percent, worth


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


def test_a_correlation_of_too_few_things_is_not_told() -> None:
    """Chance alone gives anything from -1 to 1 over four layers."""
    few = Estimate(value=0.8, low=-0.2, high=1, n=4, of="layers", null_low=-1, null_high=1)
    assert worth(few, 0.95) == ""
    assert worth(Estimate(value=None, n=0, of="layers"), 0.95) == ""


def test_percents_have_two_digits_that_count() -> None:
    shares = (0.5, 0.0123, 0.00123, -0.000004, None)
    assert [percent(share) for share in shares] == ["50%", "1.2%", "0.12%", "0.00%", "undefined"]


def test_lists_are_cut_and_counted() -> None:
    assert [count(1, "pair", "pairs"), count(2000, "pair", "pairs")] == ["1 pair", "2,000 pairs"]
    assert every([1]) == "1"
    assert every([1, 2, 3]) == "1, 2 and 3"
    assert every(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
