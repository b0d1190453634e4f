"""A matrix as cells: every value where it belongs, in every space."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.style import Style
from rich.text import Text

from simsmoe_cli.monitor.draw.heatmap import SELECTED, Layout, heat_map, layout
from simsmoe_cli.monitor.draw.scales import (
    LEVELS,
    UNDEFINED,
    Scale,
    palette,
)

SIZES = st.integers(1, 70)


def style_at(line: Text, x: int) -> Style:
    """The last style that covers a cell."""
    found = Style()
    for span in line.spans:
        if span.start <= x < span.end and isinstance(span.style, Style):
            found = found + span.style
    return found


def background(line: Text, x: int) -> tuple[int, int, int]:
    color = style_at(line, x).bgcolor
    assert color is not None
    assert color.triplet is not None
    return tuple(color.triplet)


def foreground(line: Text, x: int) -> tuple[int, int, int]:
    color = style_at(line, x).color
    assert color is not None
    assert color.triplet is not None
    return tuple(color.triplet)


@settings(max_examples=150, deadline=None)
@given(SIZES, SIZES, st.integers(1, 130), st.integers(1, 50), st.booleans(), st.booleans())
def test_any_matrix_fits_any_space(
    rows: int, columns: int, width: int, height: int, color: bool, labels: bool
) -> None:
    names = [str(number) for number in range(max(rows, columns))]
    label_width = len(names[rows - 1]) if labels else 0
    place = layout(rows, columns, width, height, label_width=label_width, halves=color)
    values = np.linspace(0, 1, rows * columns).reshape(rows, columns)
    lines = heat_map(values, Scale(), place, row_labels=names, column_labels=names, color=color)
    assert len(lines) == place.height <= height
    assert all(line.cell_len == place.width <= width for line in lines)
    for row, column in {(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3)}:
        x, y = place.position_of(row, column)
        assert 0 <= x < place.width
        assert 0 <= y < place.height
        found = place.cell_at(x, y)
        assert found is not None
        joined = [
            -(-size // drawn) for size, drawn in zip((rows, columns), place.drawn, strict=True)
        ]
        assert 0 <= row - found[0] < joined[0] * (1 + place.halves)
        assert 0 <= column - found[1] < joined[1]
    assert place.cell_at(place.width, 0) is None
    assert place.cell_at(0, place.height) is None


def test_values_are_printed_where_there_is_room() -> None:
    values = np.array([[0.125, -0.3], [math.nan, 1.0]])
    place = layout(2, 2, 40, 10, label_width=1)
    assert place.numbers
    lines = heat_map(values, Scale(-1, 1), place, row_labels="ab", column_labels="xy")
    text = "\n".join(line.plain for line in lines)
    assert [word for word in text.split() if word not in "abxy"] == ["0.12", "-.30", "–", "1.00"]
    assert lines[0].plain.split() == ["x", "y"]


def test_colours_are_those_of_the_scale() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((6, 9))
    values[2, 3] = math.nan
    scale = Scale(0, 1)
    place = layout(6, 9, 18, 6)
    assert place == Layout(6, 9, 0, 0, 2, 1, (6, 9))
    lines = heat_map(values, scale, place)
    for row in range(6):
        for column in range(9):
            x, y = place.position_of(row, column)
            level = int(scale.level(values[row, column]))
            assert background(lines[y], x) == scale.rgb(level)
    assert background(lines[2], 6) == UNDEFINED
    assert "–" in lines[2].plain


def test_two_rows_share_a_line_where_there_are_too_many() -> None:
    values = np.arange(35.0).reshape(7, 5) / 34
    scale = Scale(0, 1)
    place = layout(7, 5, 5, 4)
    assert place.halves
    lines = heat_map(values, scale, place)
    assert len(lines) == 4
    for row in range(7):
        for column in range(5):
            x, y = place.position_of(row, column)
            seen = (foreground if row % 2 == 0 else background)(lines[y], x)
            assert seen == scale.rgb(int(scale.level(values[row, column])))


def test_blocks_show_their_highest_value() -> None:
    values = np.zeros((40, 40))
    values[17, 33] = 1.0
    place = layout(40, 40, 20, 10)
    assert place.drawn == (20, 20)
    lines = heat_map(values, Scale(0, 1), place)
    x, y = place.position_of(17, 33)
    top = palette("similarity")[LEVELS - 1]
    assert top in (foreground(lines[y], x), background(lines[y], x))
    others = [
        foreground(line, column)
        for number, line in enumerate(lines)
        for column in range(20)
        if (column, number) != (x, y)
    ]
    assert set(others) == {palette("similarity")[0]}


def test_a_matrix_that_nearly_fits_joins_no_more_than_it_must() -> None:
    values = np.arange(128.0)[:, None] * np.ones(128)
    place = layout(128, 128, 170, 54)
    assert place.drawn == (108, 128)
    assert place.height == 54
    scale = Scale(0, 127)
    lines = heat_map(values, scale, place)
    # The last row of each cell is its highest.
    shown = {place.position_of(row, 0)[1] for row in range(128)}
    assert shown == set(range(54))
    assert background(lines[53], 0) == scale.rgb(LEVELS - 1)


def test_without_colours_shades_are_fuller_the_higher_the_value() -> None:
    values = np.array([[0.0, 0.3, 0.5, 0.7, 1.0, math.nan]])
    place = layout(1, 6, 6, 1, halves=False)
    (line,) = heat_map(values, Scale(0, 1), place, color=False)
    assert line.plain == " ░▒▓█–"
    assert line.spans == [span for span in line.spans if not isinstance(span.style, Style)]


def test_what_means_nothing_is_left_empty_and_what_is_chosen_is_marked() -> None:
    values = np.full((3, 3), 0.5)
    place = layout(3, 3, 30, 3)
    lines = heat_map(
        values, Scale(), place, masked_RC=np.eye(3, dtype=bool), selected=(1, 2), color=True
    )
    x, y = place.position_of(1, 1)
    assert style_at(lines[y], x).bgcolor is None
    x, y = place.position_of(1, 2)
    assert style_at(lines[y], x).bgcolor == SELECTED.bgcolor
    assert style_at(lines[y], x - place.wide).bgcolor != SELECTED.bgcolor
