"""Curves and scatter plots of terminal cells: pure functions from numbers to lines of text.

A cell holds 2 x 4 braille dots. A curve is first reduced to the lowest and the highest point in
each column of dots, and lines between neighbours. So a spike of one step stays visible, and 100,000
points cost a few milliseconds.

Without colours, each curve of a plot is drawn with a character of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.style import Style
from rich.text import Span, Text

from simsmoe_cli.monitor.draw.axes import Axis, axis, short
from simsmoe_cli.monitor.draw.scales import Floats

Dots = NDArray[np.bool_]

MARKS = "•+x*o#@%"
AXIS_STYLE = "dim"
DASH = 2  # cells after which the colours of curves that coincide alternate
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


@dataclass(frozen=True)
class Curve:
    """One curve of a plot.

    Attributes:
        label: in the legend; "" leaves it out.
        x, y: its points, in order; nan breaks the curve.
        low, high: the lowest and highest of the values averaged in each point; drawn too.
        style: rich style.
        rank: curves of a higher rank hide those of a lower one; where curves of the same rank
            coincide, their colours alternate, so that each is seen.
    """

    label: str
    x: Floats
    y: Floats
    low: Floats | None = None
    high: Floats | None = None
    style: str = ""
    rank: int = 0


def line_plot(
    curves: Sequence[Curve],
    width: int,
    height: int,
    *,
    x_axis: Axis | None = None,
    y_axis: Axis | None = None,
    log_y: bool = False,
    title: str = "",
    x_label: str = "",
    legend: bool = True,
    cursor: float | None = None,
    marks: Sequence[tuple[float, str]] = (),
    color: bool = True,
) -> list[Text]:
    """Curves with axes, ticks and a legend.

    Args:
        curves: in the order of the legend.
        width, height: cells to fill.
        x_axis, y_axis: None fits them to the curves.
        log_y: of the fitted y axis.
        title: before the legend.
        x_label: after the last tick of x.
        legend: whether to leave a line for title and labels.
        cursor: x of a vertical line.
        marks: x and style of dotted vertical lines.
        color: False draws each curve with a character of its own.

    Returns:
        `height` lines of at most `width` cells.
    """
    x_axis = x_axis or axis([curve.x for curve in curves])
    y_axis = y_axis or axis(
        [v for c in curves for v in (c.y, c.low, c.high) if v is not None], log_y
    )
    head = [_legend(curves, title, samples(curves, color), width)] if legend and height > 3 else []
    frame = _Frame(width, height - len(head), x_axis, y_axis)
    chars = [""] * len(curves) if color or len(curves) < 2 else samples(curves, color)
    for rank in sorted({curve.rank for curve in curves}):
        frame.draw_together(
            [
                (_curve_dots(curve, frame, x_axis, y_axis), curve.style, char)
                for curve, char in zip(curves, chars, strict=True)
                if curve.rank == rank
            ]
        )
    for x, style in marks:
        frame.draw_vertical(x, "┊", style)
    if cursor is not None:
        frame.draw_vertical(cursor, "│", AXIS_STYLE)
    return head + frame.lines(x_label)


def samples(curves: Sequence[Curve], color: bool) -> list[str]:
    """What stands for each curve in a legend."""
    if color or len(curves) < 2:
        return ["━━"] * len(curves)
    return [MARKS[number % len(MARKS)] for number in range(len(curves))]


def scatter(
    x: Floats,
    y: Floats,
    width: int,
    height: int,
    *,
    x_axis: Axis | None = None,
    y_axis: Axis | None = None,
    x_label: str = "",
    style: str = "",
    mark: str = "",
    highlight: Sequence[int] = (),
    highlight_style: str = "bold reverse",
) -> list[Text]:
    """Points with axes and ticks, `height` lines of at most `width` cells; nan is left out.

    Args:
        mark: a character for the cell of a point, easier to see than a dot where points are few.
        highlight: indices of points to mark.
    """
    x_axis, y_axis = x_axis or axis([x]), y_axis or axis([y])
    frame = _Frame(width, height, x_axis, y_axis)
    column, row = frame.dots_of(x, y)
    inside = frame.inside(column, row)
    dots = np.zeros((frame.rows * 4, frame.columns * 2), dtype=bool)
    dots[row[inside].astype(int), column[inside].astype(int)] = True
    frame.draw(dots, style, mark)
    for index in highlight:
        if inside[index]:
            frame.put(int(column[index]) // 2, int(row[index]) // 4, "◆", highlight_style)
    return frame.lines(x_label)


class _Frame:
    """The cells of a plot: y labels and axis at the left, x axis and labels below."""

    def __init__(self, width: int, height: int, x_axis: Axis, y_axis: Axis):
        self.width, self.height = max(1, width), max(1, height)
        self.x_axis, self.y_axis = x_axis, y_axis
        self.below = 2 if self.height >= 5 else 0
        self.rows = self.height - self.below
        ticks = y_axis.ticks(max(2, self.rows // 2)) if self.rows > 1 else []
        step = ticks[1] - ticks[0] if len(ticks) > 1 and not y_axis.log else 0.0
        self._y_ticks = [(value, short(value, step)) for value in ticks]
        margin = max((len(label) for _, label in self._y_ticks), default=0)
        self.left = margin + 1 if self.width > margin + 8 else 0
        self.columns = self.width - self.left
        self._codes = np.zeros((self.rows, self.columns), dtype=np.int64)
        self._chars = np.full((self.rows, self.columns), "", dtype="<U1")
        self._styles = np.zeros((self.rows, self.columns), dtype=np.int64)
        self._names = [""]

    def dots_of(self, x: Floats, y: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Column and row of dots of each point, nan where undefined."""
        column = self.x_axis.part(x) * (self.columns * 2 - 1)
        row = (1 - self.y_axis.part(y)) * (self.rows * 4 - 1)
        return np.rint(column), np.rint(row)

    def inside(self, column: Floats, row: Floats) -> NDArray[np.bool_]:
        """Which points lie in the frame."""
        return np.asarray(
            (column >= 0) & (column < self.columns * 2) & (row >= 0) & (row < self.rows * 4)
        )

    def draw_together(self, curves: Sequence[tuple[Dots, str, str]]) -> None:
        """Dots of several curves, their styles and marks; where they share cells, they alternate.

        Args:
            curves: dots as in `draw`.
        """
        cells = np.stack([self._cell_codes(dots) > 0 for dots, _, _ in curves])
        place = np.cumsum(cells, axis=0) - 1  # of a curve among those in the same cell
        turn = (np.arange(self.columns) // DASH) % np.maximum(1, cells.sum(axis=0))
        for (dots, style, mark), here in zip(curves, cells & (place == turn), strict=True):
            self.draw(dots, style, mark, here)

    def draw(
        self, dots: Dots, style: str, mark: str, where: NDArray[np.bool_] | None = None
    ) -> None:
        """Put dots, [rows * 4, columns * 2], on top; as a character per cell if there is a mark.

        Args:
            where: cells that take the style, [rows, columns]; None: all that have dots.
        """
        codes = self._cell_codes(dots)
        here = codes > 0 if where is None else where
        self._codes |= codes
        self._chars[here] = mark
        self._styles[here] = self._style(style)

    def _cell_codes(self, dots: Dots) -> NDArray[np.int64]:
        cells = dots.reshape(self.rows, 4, self.columns, 2)
        return np.asarray((cells * _BITS[None, :, None, :]).sum(axis=(1, 3)))

    def draw_vertical(self, x: float, char: str, style: str) -> None:
        """A vertical line through the cells that are empty."""
        column = int(self.dots_of(np.array([x]), np.array([0.0]))[0][0]) // 2
        if 0 <= column < self.columns:
            for row in range(self.rows):
                if not self._codes[row, column]:
                    self.put(column, row, char, style)

    def put(self, column: int, row: int, char: str, style: str) -> None:
        """A character in a cell."""
        self._codes[row, column], self._chars[row, column] = 1, char
        self._styles[row, column] = self._style(style)

    def _style(self, style: str) -> int:
        if style not in self._names:
            self._names.append(style)
        return self._names.index(style)

    def lines(self, x_label: str) -> list[Text]:
        """All lines, with axes."""
        glyphs = np.vectorize(chr, otypes=["<U1"])(np.where(self._codes, 0x2800 + self._codes, 32))
        glyphs = np.where(self._chars != "", self._chars, glyphs)
        labels: dict[int, str] = {}
        for value, label in self._y_ticks:
            row = (
                int((1 - float(self.y_axis.part(np.array([value]))[0])) * (self.rows * 4 - 1)) // 4
            )
            labels.setdefault(min(max(row, 0), self.rows - 1), label)
        lines = []
        for row in range(self.rows):
            head = ""
            if self.left:
                label = labels.get(row, "")
                head = label.rjust(self.left - 1) + ("┤" if label else "│")
            text = Text(head + "".join(glyphs[row]), spans=[Span(0, len(head), AXIS_STYLE)])
            self._paint(text, row, len(head))
            lines.append(text)
        return lines + self._x_lines(x_label)

    def _paint(self, text: Text, row: int, begin: int) -> None:
        styles = self._styles[row]
        edges = np.flatnonzero(np.diff(styles)) + 1
        for first, end in zip([0, *edges], [*edges, len(styles)], strict=True):
            if name := self._names[styles[first]]:
                text.spans.append(Span(begin + int(first), begin + int(end), name))

    def _x_lines(self, x_label: str) -> list[Text]:
        if not self.below:
            return []
        ticks = self.x_axis.ticks(max(1, self.columns // 10))
        step = ticks[1] - ticks[0] if len(ticks) > 1 else 0.0
        rule, row = ["─"] * self.columns, [" "] * self.width
        end = self.width - len(x_label) - 1 if len(x_label) < self.columns // 3 else self.width
        free = 0
        for value in ticks:
            part = float(self.x_axis.part(np.array([value]))[0])
            column = min(self.columns - 1, int(part * (self.columns * 2 - 1)) // 2)
            label = short(value, step)
            x = min(max(free, self.left + column - len(label) // 2), self.width - len(label))
            if x >= free and x + len(label) <= end:
                rule[column] = "┴"
                row[x : x + len(label)] = label
                free = x + len(label) + 1
        if end < self.width:
            row[end + 1 :] = x_label
        corner = "└".rjust(self.left) if self.left else ""
        return [Text(corner + "".join(rule), AXIS_STYLE), Text("".join(row), AXIS_STYLE)]


def _legend(curves: Sequence[Curve], title: str, signs: Sequence[str], width: int) -> Text:
    text = Text(title, style="bold")
    for curve, sign in zip(curves, signs, strict=True):
        if curve.label:
            text.append("  " if text.plain else "")
            text.append(f"{sign} ", Style.parse(curve.style) + Style(bold=False))
            text.append(curve.label, Style(bold=False))
    text.truncate(width, overflow="ellipsis")
    return text


def _curve_dots(curve: Curve, frame: _Frame, x_axis: Axis, y_axis: Axis) -> Dots:
    """The dots of a curve: each column from its lowest to its highest point, and lines between."""
    columns, rows = frame.columns * 2, frame.rows * 4
    column, row = frame.dots_of(curve.x, curve.y)
    known = np.isfinite(column) & np.isfinite(row) & (np.abs(column) < 1e9) & (np.abs(row) < 1e9)
    edges = np.zeros((rows + 1, columns), dtype=np.int64)
    if not known.any():
        return np.zeros((rows, columns), dtype=bool)
    # Points with no gap between them, in one column of dots: a group.
    gap = np.cumsum(~known)[known]
    column, row = column[known], row[known]
    begins = np.flatnonzero(np.diff(column, prepend=np.nan) != 0)
    begins = np.union1d(begins, np.flatnonzero(np.diff(gap, prepend=gap[0])))
    ends = np.append(begins[1:], len(row)) - 1
    top, bottom = row, row
    if curve.low is not None and curve.high is not None:
        _, low_row = frame.dots_of(curve.x, curve.low)
        _, high_row = frame.dots_of(curve.x, curve.high)
        top, bottom = np.fmin(row, high_row[known]), np.fmax(row, low_row[known])
    _fill(
        edges, column[begins], np.minimum.reduceat(top, begins), np.maximum.reduceat(bottom, begins)
    )
    # Lines from the last point of a group to the first of the next.
    joined = gap[ends[:-1]] == gap[begins[1:]]
    from_x, from_y = column[ends[:-1]][joined], row[ends[:-1]][joined]
    to_x, to_y = column[begins[1:]][joined], row[begins[1:]][joined]
    backwards = to_x < from_x
    from_x, to_x = np.where(backwards, to_x, from_x), np.where(backwards, from_x, to_x)
    from_y, to_y = np.where(backwards, to_y, from_y), np.where(backwards, from_y, to_y)
    seen = (to_x >= 0) & (from_x < columns)
    from_x, to_x, from_y, to_y = from_x[seen], to_x[seen], from_y[seen], to_y[seen]
    first, last = np.maximum(from_x, 0), np.minimum(to_x, columns - 1)
    counts = (last - first + 1).astype(int)
    if counts.sum():
        line = np.repeat(np.arange(len(counts)), counts)
        x = first[line] + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        slope = ((to_y - from_y) / np.maximum(to_x - from_x, 1))[line]
        left = from_y[line] + slope * (np.maximum(x - 0.5, from_x[line]) - from_x[line])
        right = from_y[line] + slope * (np.minimum(x + 0.5, to_x[line]) - from_x[line])
        top, bottom = np.minimum(left, right), np.maximum(left, right)
        middle = np.rint((top + bottom) / 2)
        steep = np.ceil(top) <= np.floor(bottom)
        top, bottom = (
            np.where(steep, np.ceil(top), middle),
            np.where(steep, np.floor(bottom), middle),
        )
        _fill(edges, x, top, bottom)
    return np.asarray(np.cumsum(edges, axis=0)[:-1] > 0)


def _fill(edges: NDArray[np.int64], column: Floats, top: Floats, bottom: Floats) -> None:
    """Mark where vertical strokes begin and end; parts outside the frame are cut off."""
    rows, columns = edges.shape[0] - 1, edges.shape[1]
    seen = (column >= 0) & (column < columns) & (bottom >= 0) & (top < rows)
    at = column[seen].astype(int)
    np.add.at(edges, (np.clip(top[seen], 0, rows - 1).astype(int), at), 1)
    np.add.at(edges, (np.clip(bottom[seen], 0, rows - 1).astype(int) + 1, at), -1)
