"""A matrix as cells of colour.

If there is room, cells show numbers; if there is little, two rows share a line; if even that does
not fit, blocks of neighbouring cells are joined to one cell.

Shapes: R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.style import Style
from rich.text import Span, Text

from simsmoe_cli.monitor.draw.scales import UNDEFINED_TEXT, Floats, Scale, painted, readable_on

NUMBER_WIDTH = 5  # "0.12" or "-.12" and a blank
WIDEST, HIGHEST = 8, 3
EMPTY = -2  # the level of a cell that means nothing; -1 is undefined
MASKED = "·"
PINK = "#ff87d7"  # in none of the scales
SELECTED = Style(color="#000000", bgcolor=PINK, bold=True)


@dataclass(frozen=True)
class Layout:
    """Where the cells of a heat map are.

    Attributes:
        rows, columns: of the matrix.
        left, top: cells before the first column and lines above the first row, for labels.
        wide, high: a cell's width, and its lines.
        halves: two rows share a line.
        drawn: rows and columns of cells; fewer than those of the matrix where neighbours are
            joined to one cell, as evenly as possible.
        numbers: whether values are printed.
    """

    rows: int
    columns: int
    left: int
    top: int
    wide: int
    high: int
    drawn: tuple[int, int]
    halves: bool = False
    numbers: bool = False

    @property
    def width(self) -> int:
        return self.left + self.wide * self.drawn[1]

    @property
    def height(self) -> int:
        rows = self.drawn[0]
        return self.top + (-(-rows // 2) if self.halves else self.high * rows)

    def starts(self, axis: int) -> list[int]:
        """The first row (axis 0) or column (1) of the matrix in each cell."""
        size, cells = (self.rows, self.columns)[axis], self.drawn[axis]
        return [cell * size // cells for cell in range(cells)]

    def cell_at(self, x: int, y: int) -> tuple[int, int] | None:
        """Row and column of the matrix at a position of the picture (the first of a block, the
        upper of two halves); None outside."""
        line = y - self.top
        column = (x - self.left) // self.wide
        row = 2 * line if self.halves else line // self.high
        if x < self.left or line < 0 or row >= self.drawn[0] or column >= self.drawn[1]:
            return None
        return self.starts(0)[row], self.starts(1)[column]

    def position_of(self, row: int, column: int) -> tuple[int, int]:
        """x and y of the first character of a cell of the matrix."""
        drawn_row = ((row + 1) * self.drawn[0] - 1) // self.rows
        drawn_column = ((column + 1) * self.drawn[1] - 1) // self.columns
        y = drawn_row // 2 if self.halves else drawn_row * self.high
        return self.left + drawn_column * self.wide, self.top + y


def layout(
    rows: int,
    columns: int,
    width: int,
    height: int,
    *,
    label_width: int = 0,
    halves: bool = True,
) -> Layout:
    """The best layout for a matrix in a space, which is at least 1 x 1.

    Args:
        rows, columns: of the matrix, at least 1.
        width, height: the space, in cells and lines.
        label_width: of the longest label of a row; 0 leaves out all labels.
        halves: allow two rows to a line (needs colours).
    """
    left, top = (label_width + 1, 1) if label_width else (0, 0)
    if left >= width - 1 or top >= height - 1:
        left = top = 0
    wide, high = max(1, width - left), max(1, height - top)
    if columns * NUMBER_WIDTH <= wide and rows <= high:
        cell = min(WIDEST, wide // columns)
        tall = min(HIGHEST, high // rows, max(1, cell // 2))
        return Layout(rows, columns, left, top, cell, tall, (rows, columns), numbers=True)
    if columns <= wide and rows <= high:
        cell = min(WIDEST, wide // columns, 2 * (high // rows))
        tall = min(high // rows, max(1, cell // 2))
        return Layout(rows, columns, left, top, cell, tall, (rows, columns))
    lines = 2 * high if halves else high
    drawn = min(rows, lines), min(columns, wide)
    return Layout(rows, columns, left, top, min(2, wide // drawn[1]), 1, drawn, halves)


def heat_map(
    values_RC: Floats,
    scale: Scale,
    grid: Layout,
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    masked_RC: NDArray[np.bool_] | None = None,
    selected: tuple[int, int] | None = None,
    color: bool = True,
) -> list[Text]:
    """The matrix as lines of text.

    Blocks of neighbours show their highest value, so that one similar pair among many different
    ones stays visible; of changes, the largest.

    Args:
        values_RC: [R, C]; nan is shown as undefined.
        scale: from values to colours.
        grid: from `layout` for this matrix.
        row_labels, column_labels: where the layout has room for them.
        masked_RC: meaningless cells (an expert compared with itself), left empty.
        selected: row and column of a cell to mark.
        color: False draws shades of grey as characters.
    """
    level_RC = _levels(values_RC, scale, masked_RC, grid)
    lines = [Text(_column_labels(grid, column_labels), style="dim")] if grid.top else []
    middle = (grid.high - 1) // 2
    for row in range(0, len(level_RC), 2 if grid.halves else 1):
        labelled = grid.starts(0)[row]
        for line in range(grid.high):
            in_middle = line == middle
            shown = in_middle and grid.left and labelled < len(row_labels)
            label = row_labels[labelled] if shown else ""
            text = Text(label.rjust(max(0, grid.left - 1)) + " " * (grid.left > 0))
            text.stylize("dim")
            if grid.halves:
                cells = _halves(level_RC[row : row + 2], scale, grid.wide)
            else:
                value_C = values_RC[row] if grid.numbers and in_middle else None
                cells = _cells(level_RC[row], value_C, scale, grid.wide, in_middle, color)
            lines.append(_joined(text, cells, grid.wide))
    if selected is not None:
        style = SELECTED if color else Style(reverse=True, bold=True)
        if grid.halves:
            style = Style(color=PINK, bgcolor=PINK)
        x, y = grid.position_of(*selected)
        for text in lines[y : y + grid.high]:
            text.stylize(style, x, x + grid.wide)
    return lines


def _levels(
    values_RC: Floats, scale: Scale, masked_RC: NDArray[np.bool_] | None, grid: Layout
) -> NDArray[np.int64]:
    """The level of each cell that is drawn; EMPTY where all of it is masked."""
    masked = np.zeros(values_RC.shape, dtype=bool) if masked_RC is None else masked_RC
    values = np.where(masked, np.nan, values_RC)
    if grid.drawn != values.shape:
        for axis in (0, 1):
            starts = grid.starts(axis)
            high = np.fmax.reduceat(values, starts, axis=axis)
            if scale.kind == "change":
                low = np.fmin.reduceat(values, starts, axis=axis)
                high = np.where(np.abs(low) > np.abs(high), low, high)
            values, masked = high, np.logical_and.reduceat(masked, starts, axis=axis)
    return np.where(masked, EMPTY, scale.level(values))


def _column_labels(grid: Layout, labels: Sequence[str]) -> str:
    line = [" "] * grid.width
    free = 0
    for column in grid.starts(1):
        if column >= len(labels):
            break
        label = labels[column]
        x = grid.position_of(0, column)[0] + max(0, grid.wide - 1 - len(label)) // 2
        if x >= free and x + len(label) <= grid.width:
            line[x : x + len(label)] = label
            free = x + len(label) + 1
    return "".join(line)


Cells = Iterator[tuple[str, Style | None]]  # what is shown in a cell, and in what colours


def _cells(
    level_C: NDArray[np.int64],
    value_C: Floats | None,
    scale: Scale,
    wide: int,
    in_middle: bool,
    color: bool,
) -> Cells:
    """One row of the matrix on one line, with its values if they are given."""
    for column, level in enumerate(level_C.tolist()):
        if level == EMPTY:
            yield (MASKED if in_middle else " ").center(wide), None
            continue
        shown = ""
        if value_C is not None:
            shown = _number(float(value_C[column])).rjust(wide - 1)
            if not color and level >= 0:
                shown += scale.shade(level)
        elif level < 0:
            shown = (UNDEFINED_TEXT if in_middle else " ").center(wide)
        elif not color:
            shown = scale.shade(level) * wide
        background = scale.rgb(level)
        yield shown, painted(readable_on(background), background) if color else None


def _halves(level_2C: NDArray[np.int64], scale: Scale, wide: int) -> Cells:
    """Two rows of the matrix on one line; the last line may hold one."""
    upper = level_2C[0].tolist()
    lower = level_2C[1].tolist() if len(level_2C) == 2 else [EMPTY] * len(upper)
    for above, below in zip(upper, lower, strict=True):
        if above == below == EMPTY:
            yield "", None
        elif above == EMPTY:
            yield "▄" * wide, painted(scale.rgb(below), None)
        else:
            background = scale.rgb(below) if below != EMPTY else None
            yield "▀" * wide, painted(scale.rgb(above), background)


def _joined(text: Text, cells: Cells, wide: int) -> Text:
    """The label of a line and its cells."""
    spans, parts, at = text.spans, [text.plain], len(text.plain)
    for shown, style in cells:
        parts.append(shown.ljust(wide)[:wide])
        if style is not None:
            spans.append(Span(at, at + wide, style))
        at += wide
    text.plain, text.spans = "".join(parts), spans
    return text


def _number(value: float) -> str:
    """Two digits in four characters: 0.12, -.12, 1.00."""
    if np.isnan(value):
        return UNDEFINED_TEXT
    text = f"{value:.2f}"
    if text == "-0.00":
        return "0.00"
    return f"-{text[2:]}" if text.startswith("-0") else text
