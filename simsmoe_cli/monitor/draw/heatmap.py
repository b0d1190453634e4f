"""A matrix as cells of colour: with numbers where there is room, two rows to a line where there is
not, and blocks of neighbours made one where even that is too large.

Shapes: R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.style import Style
from rich.text import Span, Text

from simsmoe_cli.monitor.draw.scales import UNDEFINED_TEXT, Floats, Scale, painted, readable_on

NUMBER_WIDTH = 5  # "0.12" or "-.12" and a blank
WIDEST, HIGHEST = 8, 3
HALF = "▀"
MASKED = "·"
PINK = "#ff87d7"  # in none of the scales
SELECTED = Style(color="#000000", bgcolor=PINK, bold=True)


@dataclass(frozen=True)
class Layout:
    """Where the cells of a heat map stand.

    Attributes:
        rows, columns: of the matrix.
        left, top: cells before the first column and lines above the first row, for labels.
        wide, high: a cell's width, and its lines.
        halves: two rows share a line.
        block: rows and columns that are made one cell.
        numbers: whether values are printed.
    """

    rows: int
    columns: int
    left: int
    top: int
    wide: int
    high: int
    halves: bool = False
    block: tuple[int, int] = (1, 1)
    numbers: bool = False

    @property
    def width(self) -> int:
        return self.left + self.wide * -(-self.columns // self.block[1])

    @property
    def height(self) -> int:
        drawn = -(-self.rows // self.block[0])
        return self.top + (-(-drawn // 2) if self.halves else self.high * drawn)

    def cell_at(self, x: int, y: int) -> tuple[int, int] | None:
        """Row and column of the matrix at a place of the picture (the first of a block, the upper
        of two halves); None outside."""
        column = (x - self.left) // self.wide * self.block[1]
        line = y - self.top
        row = (2 * line if self.halves else line // self.high) * self.block[0]
        inside = x >= self.left and line >= 0 and row < self.rows and column < self.columns
        return (row, column) if inside else None

    def place_of(self, row: int, column: int) -> tuple[int, int]:
        """x and y of the first character of a cell of the matrix."""
        drawn_row, drawn_column = row // self.block[0], column // self.block[1]
        y = drawn_row // 2 if self.halves else drawn_row * self.high
        return self.left + drawn_column * self.wide, self.top + y


def layout(
    rows: int,
    columns: int,
    width: int,
    height: int,
    *,
    label_width: int = 0,
    numbers: bool = True,
    halves: bool = True,
) -> Layout:
    """The best layout for a matrix in a space, which is at least 1 x 1.

    Args:
        rows, columns: of the matrix, at least 1.
        width, height: the space, in cells and lines.
        label_width: of the longest label of a row; 0 leaves out all labels.
        numbers: print values where they fit.
        halves: allow two rows to a line (needs colours).
    """
    left, top = (label_width + 1, 1) if label_width else (0, 0)
    if left >= width - 1 or top >= height - 1:
        left = top = 0
    wide, high = max(1, width - left), max(1, height - top)
    if numbers and columns * NUMBER_WIDTH <= wide and rows <= high:
        cell = min(WIDEST, wide // columns)
        tall = min(HIGHEST, high // rows, max(1, cell // 2))
        return Layout(rows, columns, left, top, cell, tall, numbers=True)
    if columns <= wide and rows <= high:
        cell = min(WIDEST, wide // columns, 2 * (high // rows))
        return Layout(rows, columns, left, top, cell, min(high // rows, max(1, cell // 2)))
    lines = 2 * high if halves else high
    block = (-(-rows // lines), -(-columns // wide))
    drawn = -(-columns // block[1])
    return Layout(rows, columns, left, top, min(2, wide // drawn), 1, halves, block)


def heat_map(
    values_RC: Floats,
    scale: Scale,
    place: Layout,
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    masked_RC: NDArray[np.bool_] | None = None,
    selected: tuple[int, int] | None = None,
    color: bool = True,
    label_style: str = "dim",
) -> list[Text]:
    """The matrix as lines of text.

    Blocks of neighbours show their highest value: what is alike must not vanish among what is not.

    Args:
        values_RC: [R, C]; nan is shown as undefined.
        scale: from values to colours.
        place: from `layout` for this matrix.
        row_labels, column_labels: where the layout has room for them.
        masked_RC: cells that mean nothing (an expert with itself), left empty.
        selected: row and column of a cell to mark.
        color: False draws shades of grey as characters.
    """
    level_RC, masked = _blocks(values_RC, scale, masked_RC, place)
    lines = _column_labels(place, column_labels, label_style)
    step = 2 if place.halves else 1
    for row in range(0, level_RC.shape[0], step):
        for line in range(place.high):
            label = _row_label(place, row_labels, row) if line == (place.high - 1) // 2 else ""
            text = Text(label.rjust(max(0, place.left - 1)) + " " * (place.left > 0))
            text.stylize(label_style)
            if place.halves:
                _draw_halves(text, level_RC[row : row + 2], masked[row : row + 2], scale, place)
            else:
                middle = line == (place.high - 1) // 2
                values = values_RC[row] if place.numbers and middle else None
                _draw_row(text, level_RC[row], masked[row], values, scale, place, middle, color)
            lines.append(text)
    if selected is not None:
        style = SELECTED if color else Style(reverse=True, bold=True)
        if place.halves:
            style = Style(color=PINK, bgcolor=PINK)
        _mark(lines, place, *selected, style)
    return lines


def _blocks(
    values_RC: Floats, scale: Scale, masked_RC: NDArray[np.bool_] | None, place: Layout
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Levels and mask of what is drawn, blocks made one."""
    rows, columns = values_RC.shape
    masked = np.zeros((rows, columns), dtype=bool) if masked_RC is None else masked_RC
    level = np.where(masked, -2, scale.level(values_RC))
    if place.block != (1, 1):
        for axis, size in enumerate(place.block):
            level = np.maximum.reduceat(level, np.arange(0, level.shape[axis], size), axis=axis)
    return level, level == -2


def _column_labels(place: Layout, labels: Sequence[str], style: str) -> list[Text]:
    if not place.top:
        return []
    line = [" "] * place.width
    free = 0
    for column in range(0, min(place.columns, len(labels)), place.block[1]):
        label = labels[column]
        x = place.place_of(0, column)[0] + max(0, place.wide - 1 - len(label)) // 2
        if x >= free and x + len(label) <= place.width:
            line[x : x + len(label)] = label
            free = x + len(label) + 1
    return [Text("".join(line), style=style)]


def _row_label(place: Layout, labels: Sequence[str], drawn_row: int) -> str:
    row = drawn_row * place.block[0]
    return labels[row] if place.left and row < len(labels) else ""


def _draw_row(
    text: Text,
    level_C: NDArray[np.int64],
    masked_C: NDArray[np.bool_],
    value_C: Floats | None,
    scale: Scale,
    place: Layout,
    middle: bool,
    color: bool,
) -> None:
    spans, parts, at = text.spans, [text.plain], len(text.plain)
    for column, level in enumerate(level_C.tolist()):
        shown = ""
        if masked_C[column]:
            shown = (MASKED if middle else " ").center(place.wide)
        elif value_C is not None:
            shown = _number(float(value_C[column])).rjust(place.wide - 1)
        elif level < 0:
            shown = (UNDEFINED_TEXT if middle else " ").center(place.wide)
        if color and not masked_C[column]:
            background = scale.rgb(level)
            spans.append(Span(at, at + place.wide, painted(readable_on(background), background)))
        elif not color and not shown:
            shown = scale.shade(level) * place.wide
        elif not color and value_C is not None and level >= 0:
            shown += scale.shade(level)
        parts.append(shown.ljust(place.wide)[: place.wide])
        at += place.wide
    text.plain, text.spans = "".join(parts), spans


def _draw_halves(
    text: Text,
    level_2C: NDArray[np.int64],
    masked_2C: NDArray[np.bool_],
    scale: Scale,
    place: Layout,
) -> None:
    spans, parts, at = text.spans, [text.plain], len(text.plain)
    upper = level_2C[0].tolist()
    lower = level_2C[1].tolist() if len(level_2C) == 2 else [-2] * len(upper)
    for above, below in zip(upper, lower, strict=True):
        if above == below == -2:
            parts.append(" " * place.wide)
        elif above == -2:
            parts.append("▄" * place.wide)
            spans.append(Span(at, at + place.wide, painted(scale.rgb(below), None)))
        else:
            parts.append(HALF * place.wide)
            background = scale.rgb(below) if below != -2 else None
            spans.append(Span(at, at + place.wide, painted(scale.rgb(above), background)))
        at += place.wide
    text.plain, text.spans = "".join(parts), spans


def _mark(lines: list[Text], place: Layout, row: int, column: int, style: Style) -> None:
    x, y = place.place_of(row, column)
    for line in lines[y : y + place.high]:
        line.stylize(style, x, x + place.wide)


def _number(value: float) -> str:
    """Two digits in four characters: 0.12, -.12, 1.00."""
    if np.isnan(value):
        return UNDEFINED_TEXT
    text = f"{value:.2f}"
    if text == "-0.00":
        return "0.00"
    return f"-{text[2:]}" if text.startswith("-0") else text
