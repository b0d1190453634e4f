"""Axes hold all values, and their ticks are round."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simsmoe_cli.monitor.draw.axes import Axis, axis, short
from simsmoe_cli.monitor.draw.canvas import Curve, line_plot

FLOATS = st.floats(-1e9, 1e9) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])


@given(FLOATS, FLOATS, st.integers(1, 30), st.booleans())
def test_ticks_are_few_and_within_the_axis(a: float, b: float, most: int, log: bool) -> None:
    scale = axis([np.array([a, b])], log)
    ticks = scale.ticks(most)
    room = 1e-5 * (scale.high - scale.low)
    assert len(ticks) <= most + 1
    assert all(scale.low - room <= tick <= scale.high + room for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_ticks_are_round() -> None:
    assert Axis(0, 1000).ticks(5) == [0, 200, 400, 600, 800, 1000]
    assert Axis(2.95, 6.6).ticks(4) == [3, 4, 5, 6]
    assert Axis(1e-5, 1e-2, log=True).ticks(4) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])


def test_what_is_counted_has_no_parts() -> None:
    """A run of one probe, or of few steps, has no step 0.2."""
    assert axis([np.array([0.0])]).ticks(6) == [0]
    assert axis([np.array([500.0])]).ticks(6) == [500]
    assert axis([np.array([1.0, 2.0, 3.0])]).ticks(9) == [1, 2, 3]
    assert axis([np.array([1.0, 2.5])]).ticks(3) == [1, 1.5, 2, 2.5]
    (_, row) = line_plot([Curve("", np.array([0.0]), np.array([0.9]))], 60, 8)[-2:]
    assert row.plain.split() == ["0"]


def test_an_axis_holds_all_that_is_finite() -> None:
    assert axis([np.array([1.5, math.nan, 5.0]), np.array([-2.0, math.inf])]) == Axis(-2, 5)
    assert axis([]).low < axis([]).high
    for log in (False, True):
        tiny = axis([np.array([0.0, 5e-324])], log)
        assert tiny.low < tiny.high
        assert tiny.ticks(1)
    same = axis([np.array([3.0, 3.0])])
    assert same.low < 3 < same.high
    assert axis([np.array([0.0, -1.0, 10.0, 1000.0])], log=True) == Axis(10, 1000, log=True)


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        (0.0, 0, "0"),
        (950, 0, "950"),
        (1500, 0, "1.5k"),
        (20_000_000, 0, "20M"),
        (134_400_000, 0, "134.4M"),
        (0.012, 0, "0.012"),
        (3e-5, 0, "3e-05"),
        (math.nan, 0, "–"),
        (0.5, 0.05, "0.50"),
        (2000, 1000, "2k"),
        (2500, 500, "2.5k"),
        (-1200, 0, "-1.2k"),
    ],
)
def test_numbers_are_short(value: float, step: float, text: str) -> None:
    assert short(value, step) == text
