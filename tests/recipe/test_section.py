"""A section is strict, and can say which of its fields were given for nothing."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from simsmoe_cli.recipe.section import Problem, Section


class Pool(Section):
    """A section of these tests."""

    width: int = 3
    depth: float = 2.0


@pytest.mark.parametrize("value", [{"width": "3"}, {"width": 3.5}, {"hight": 1}])
def test_wrong_types_and_unknown_keys_are_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Pool.model_validate(value)


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValidationError):
        Pool(depth=float("nan"))


def test_fields_that_differ_from_their_default_are_named() -> None:
    pool = Pool(width=4, depth=1.0)
    assert list(pool.without_effect("pool", "rain", "or wait", "weather.now", keep="depth")) == [
        Problem(("pool.width", "weather.now"), "has no effect with rain", "Leave it out, or wait.")
    ]
    assert list(Pool().without_effect("pool", "rain", "or wait", "weather.now")) == []
