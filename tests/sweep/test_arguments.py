"""Seeds and values of a sweep, as a command line writes them."""

from __future__ import annotations

from typing import Any

import pytest

from simsmoe_cli.errors import UserError
from simsmoe_cli.sweep.arguments import parse_axis, parse_seeds


@pytest.mark.parametrize(
    ("given", "seeds"), [("0-4", [0, 1, 2, 3, 4]), ("0,2, 5-6", [0, 2, 5, 6]), (3, [3]), ([7], [7])]
)
def test_seeds(given: Any, seeds: list[int]) -> None:
    assert parse_seeds(given) == seeds


@pytest.mark.parametrize("given", ["", "a", "1,1", "4-2", "-1", [], [1.5], "0-99999999"])
def test_what_are_no_seeds(given: Any) -> None:
    with pytest.raises(ValueError, match="seed"):
        parse_seeds(given)


def test_values_of_an_axis_are_yaml() -> None:
    assert parse_axis("train.lr=1e-3,0.01") == ("train.lr", [0.001, 0.01])
    field, values = parse_axis("similarity.weight=[[0, 0.0], [1, 0.1]], 0.003")
    assert (field, values) == ("similarity.weight", [[[0, 0.0], [1, 0.1]], 0.003])
    for text in ("train.lr", "=1", "train.lr=", "train.lr=[1"):
        with pytest.raises(UserError, match="--grid"):
            parse_axis(text)
