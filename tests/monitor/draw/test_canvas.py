"""Curves and points of terminal cells show what is in the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.text import Text

from simsmoe_cli.monitor.draw.axes import Axis
from simsmoe_cli.monitor.draw.canvas import Curve, line_plot, scatter

FLOATS = st.floats(-1e9, 1e9) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])
BITS = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]]


def dots(lines: Sequence[Text]) -> NDArray[np.bool_]:
    """The dots of a plot without axes, [4 * lines, 2 * cells]."""
    grid = np.zeros((4 * len(lines), 2 * max(map(len, lines))), dtype=bool)
    for row, line in enumerate(lines):
        for column, char in enumerate(line.plain):
            code = ord(char) - 0x2800 if "\u2800" <= char <= "\u28ff" else 0
            for y in range(4):
                for x in range(2):
                    grid[4 * row + y, 2 * column + x] = bool(code & BITS[y][x])
    return grid


def bare(x: Sequence[float], y: Sequence[float], **options: Axis) -> NDArray[np.bool_]:
    """The dots of one curve on 8 x 4 cells: too few for axes."""
    return dots(line_plot([Curve("", np.array(x), np.array(y))], 8, 4, legend=False, **options))


def test_a_straight_line_is_straight() -> None:
    grid = bare([0, 15], [0, 15], y_axis=Axis(0, 15))
    assert grid.shape == (16, 16)
    np.testing.assert_array_equal(grid, np.eye(16, dtype=bool)[::-1])


def test_a_level_line_fills_one_row() -> None:
    grid = bare([0, 1, 2], [3, 3, 3], y_axis=Axis(0, 6))
    assert grid.any(axis=1).sum() == 1
    assert grid.any(axis=0).all()


def test_an_undefined_value_breaks_the_curve() -> None:
    grid = bare([0, 3, 7.5, 12, 15], [0, 0, math.nan, 0, 0])
    columns = grid.any(axis=0)
    assert columns[:4].all()
    assert columns[12:].all()
    assert not columns[4:12].any()


def test_a_spike_among_many_points_is_seen() -> None:
    y = np.zeros(100_000)
    y[33_333] = 1.0
    grid = bare(np.arange(100_000.0).tolist(), y.tolist())
    (top,) = np.flatnonzero(grid[0])
    assert top == round(33_333 / 99_999 * 15)
    assert grid[-1].all()


def test_how_far_values_reach_is_drawn() -> None:
    x = np.arange(16.0)
    curve = Curve("", x, np.full(16, 5.0), low=np.full(16, 2.0), high=np.full(16, 8.0))
    grid = dots(line_plot([curve], 8, 4, y_axis=Axis(0, 15), legend=False))
    assert grid.sum(axis=0).tolist() == [7] * 16


def test_a_range_shows_what_lies_in_it() -> None:
    grid = bare([0, 10, 20, 30], [0, 10, 20, 30], x_axis=Axis(10, 20), y_axis=Axis(10, 20))
    np.testing.assert_array_equal(grid, np.eye(16, dtype=bool)[::-1])


def test_a_logarithmic_axis_makes_ratios_equal() -> None:
    grid = bare([0, 5, 10, 15], [1, 10, 100, 1000], y_axis=Axis(1, 1000, log=True))
    np.testing.assert_array_equal(grid, np.eye(16, dtype=bool)[::-1])
    with_zero = bare([0, 15], [0, 10], y_axis=Axis(1, 10, log=True))
    assert with_zero.sum() == 1


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(FLOATS, FLOATS), max_size=40),
    st.integers(1, 90),
    st.integers(1, 30),
    st.booleans(),
    st.booleans(),
)
def test_any_numbers_fit_any_space(
    points: list[tuple[float, float]], width: int, height: int, log: bool, color: bool
) -> None:
    x, y = np.array(points, dtype=float).reshape(-1, 2).T
    curves = [Curve("one", x, y, style="red"), Curve("two", x, -y, y, y, style="blue")]
    for lines in (
        line_plot(curves, width, height, log_y=log, title="t", x_label="step", color=color),
        scatter(x, y, width, height, x_label="x", highlight=[0] if points else []),
        line_plot([], width, height, cursor=3.0),
    ):
        assert len(lines) == height
        assert all(line.cell_len <= width for line in lines)


def test_colours_tell_curves_apart_and_characters_where_there_are_none() -> None:
    x = np.arange(10.0)
    curves = [Curve("low", x, 0 * x, style="#ff0000"), Curve("high", x, 0 * x + 1, style="#0000ff")]
    colored = line_plot(curves, 30, 8)
    assert {str(span.style) for line in colored[1:] for span in line.spans} >= {
        "#ff0000",
        "#0000ff",
    }
    plain = [line.plain for line in line_plot(curves, 30, 8, color=False)]
    assert "low" in plain[0]
    assert "high" in plain[0]
    mark_low, mark_high = plain[0][0], plain[0][plain[0].index("high") - 2]
    assert mark_low != mark_high
    assert mark_high in plain[1]
    assert mark_low in plain[5]
    assert not any("\u2800" <= char <= "\u28ff" for line in plain for char in line)


def test_ticks_stand_where_their_values_are() -> None:
    x = np.linspace(0, 1000, 50)
    lines = line_plot([Curve("", x, x / 10)], 60, 20, legend=False, x_label="step")
    bottom, ruler = lines[-1].plain, lines[-2].plain
    assert bottom.endswith("step")
    # The middle of the label, under its tick, under its value.
    middle = bottom.index("400") + 1
    assert ruler[middle] == "┴"
    left = ruler.index("└")
    assert middle == pytest.approx(left + 0.4 * (60 - left), abs=1)
    labels = {line.plain.split("┤")[0].strip() for line in lines if "┤" in line.plain}
    assert {"0", "20", "80", "100"} <= labels


def test_a_cursor_stands_at_its_value() -> None:
    x = np.array([0.0, 100.0])
    lines = line_plot([Curve("", x, x)], 41, 10, legend=False, cursor=50, color=False)
    columns = {line.plain.rindex("│") for line in lines[:8] if line.plain.count("│") == 2}
    (column,) = columns
    left = lines[-2].plain.index("└")
    assert column == pytest.approx(left + (41 - left) / 2, abs=1)


def test_every_point_of_a_scatter_is_a_dot() -> None:
    x, y = np.array([0.0, 1.0, 0.5, math.nan]), np.array([0.0, 1.0, 0.5, 0.2])
    grid = dots(scatter(x, y, 8, 4, x_axis=Axis(0, 1), y_axis=Axis(0, 1)))
    assert grid.sum() == 3
    assert grid[15, 0]
    assert grid[0, 15]
    marked = scatter(x, y, 8, 4, mark="•", highlight=[1])
    text = "\n".join(line.plain for line in marked)
    assert (text.count("•"), text.count("◆")) == (2, 1)
    assert marked[0].plain.endswith("◆")
