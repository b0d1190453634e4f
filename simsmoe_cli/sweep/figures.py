"""Figures of a sweep: BPC against CKA, differences to the baseline, curves, similarity by layer."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from simsmoe_cli.collapse.findings import mean_of
from simsmoe_cli.collapse.show.figures.style import (
    INK,
    MUTED,
    SERIES,
    Drawing,
    from_zero,
    new_figure,
    step_axis,
    style,
)
from simsmoe_cli.collapse.show.figures.training import curve, leave_out_start
from simsmoe_cli.compare.seeds import Mean
from simsmoe_cli.errors import printable
from simsmoe_cli.sweep.table import CKA, CKA_SHARED, Row, Score, Table, name_of

MARKS = "osD^vP*X<>"
LineStyle = Literal["-", "--", ":", "-."] | tuple[float, tuple[float, ...]]
STYLES: tuple[LineStyle, ...] = (
    *("-", "--", ":", "-."),
    *((0, dashes) for dashes in ((6, 1), (3, 1, 1, 1, 1, 1), (1, 3), (8, 3, 1, 3))),
)
NAME = 40  # letters of a cell's name


def figures(table: Table) -> Iterator[Drawing]:
    """Those for which there are results."""
    for similarity in (CKA, CKA_SHARED):
        if similarity == table.main:
            continue
        if {table.main.name, similarity.name} <= {score.name for score in table.scores}:
            yield from _drawn(_score_and_similarity(table, similarity))
    for score in dict.fromkeys((table.main, CKA)):
        yield from _drawn(_differences(table, score))
    yield from _drawn(_curves(table))
    yield from _drawn(_by_layer(table))


def _drawn(drawing: Drawing | None) -> Iterator[Drawing]:
    if drawing is not None:
        yield drawing


def _score_and_similarity(table: Table, similarity: Score) -> Drawing | None:
    """A point for each cell, with the intervals of both."""
    rows = [row for row in table.rows if {table.main.name, similarity.name} <= row.means.keys()]
    if not rows:
        return None
    series = _series(table, rows)
    legend = _Legend(series)
    with style():
        figure = new_figure(2.6 + legend.height)
        axes = figure.add_subplot()
        for one in series:
            x, y = one.row.means[similarity.name], one.row.means[table.main.name]
            axes.errorbar(
                x.mean,
                y.mean,
                xerr=_half(x),
                yerr=_half(y),
                fmt=one.mark,
                color=one.colour,
                ms=4,
                lw=0.8,
                capsize=1.5,
            )
        axes.set_xlabel(f"{similarity.label}, mean of all pairs and layers")
        axes.set_ylabel(table.main.label)
        axes.set_xlim(_frame([row.means[similarity.name] for row in rows]))
        axes.set_ylim(_frame([row.means[table.main.name] for row in rows]))
        legend.draw(figure, marks=True)
    return Drawing(
        f"{table.main.name}-{similarity.name}",
        f"{table.main.label} against {similarity.label}",
        "One point for each cell: mean over its seeds, with 95% t-intervals of both means "
        "(none for a single seed; those of few seeds may leave the frame). "
        f"{_n(rows)} Lower left is better.",
        figure,
    )


def _frame(means: Sequence[Mean]) -> tuple[float, float]:
    """Limits that show all points, and as much of their intervals as leaves the points apart."""
    low, high = min(mean.mean for mean in means), max(mean.mean for mean in means)
    halves = [half for mean in means if (half := _half(mean)) is not None]
    half = statistics.median(halves) if halves else 0.0
    if high > low:
        half = min(max(half, (high - low) / 4), high - low)
    room = half or abs(high) / 10 or 1.0
    return low - room, high + room


def _differences(table: Table, score: Score) -> Drawing | None:
    """Paired differences to the baseline, with both intervals."""
    rows = [row for row in table.rows if score.name in row.differences]
    if not rows:
        return None
    with style():
        figure = new_figure(0.9 + 0.2 * len(rows))
        axes = figure.add_subplot()
        for place, row in enumerate(reversed(rows)):
            found = row.differences[score.name]
            colour = SERIES[0] if found.shown else MUTED
            if found.t is not None and found.bootstrap is not None:
                axes.hlines(place, found.t.low, found.t.high, color=colour, lw=1)
                axes.hlines(place, found.bootstrap.low, found.bootstrap.high, color=colour, lw=3)
            axes.plot(found.mean, place, "o", color=colour, ms=4)
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_yticks(range(len(rows)), [printable(row.name, NAME) for row in reversed(rows)])
        axes.grid(False, axis="y")
        axes.set_xlabel(f"{score.label}, minus the baseline's")
    return Drawing(
        f"difference-{score.name}",
        f"Differences in {score.label}",
        "Paired by seed. Thin: 95% t-interval; thick: bootstrap; grey: the t-interval holds zero, "
        f"so no difference is shown. {_n(rows)}",
        figure,
    )


def _curves(table: Table) -> Drawing | None:
    """Validation BPC over training, the mean of all seeds (the paper's Figure 3)."""
    rows = []
    for row in table.rows:
        found = [record.curve for record in row.records.values()]
        steps = found[0].steps if found else []
        values = [
            mean_of(one.valid_bpc[place] for one in found if place < len(one.valid_bpc))
            for place in range(len(steps))
        ]
        if any(value is not None for value in values):
            rows.append((row, steps, values))
    if not rows:
        return None
    series = _series(table, [row for row, _, _ in rows])
    legend = _Legend(series)
    with style():
        figure = new_figure(2.5 + legend.height)
        axes = figure.add_subplot()
        for (_, steps, values), one in zip(rows, series, strict=True):
            curve(axes, steps, values, ls=one.line, color=one.colour, lw=1)
        step_axis(axes)
        axes.set_ylabel("validation BPC")
        leave_out_start(axes, [value for _, _, values in rows for value in values])
        legend.draw(figure, marks=False)
    return Drawing(
        "curves",
        "Validation BPC during training",
        f"Mean over seeds. {_n([row for row, _, _ in rows])}",
        figure,
    )


def _by_layer(table: Table) -> Drawing | None:
    """CKA of each layer, the mean of all seeds (the paper's Figure 4b)."""
    rows = [row for row in table.rows if any(record.layers for record in row.records.values())]
    if not rows:
        return None
    series = _series(table, rows)
    legend = _Legend(series)
    with style():
        figure = new_figure(2.5 + legend.height)
        axes = figure.add_subplot()
        for one in series:
            layers = zip(*(record.layers for record in one.row.records.values()), strict=False)
            means = [mean_of(layer.cka for layer in seeds) for seeds in layers]
            places = range(1, len(means) + 1)
            curve(axes, places, means, f"{one.mark}-", color=one.colour, lw=0.8, ms=3)
        step_axis(axes)
        axes.set_xlabel("layer with experts, first to last")
        axes.set_ylabel("mean debiased CKA")
        from_zero(axes)
        legend.draw(figure, marks=True)
    return Drawing(
        "layers",
        "Similarity by layer",
        f"CKA on held-out tokens that all experts see; mean over seeds. {_n(rows)}",
        figure,
    )


@dataclass(frozen=True)
class _Series:
    """A cell in a figure.

    Attributes:
        row: its results.
        own, others: its values in the fields of the baseline, and in all others.
        colour: one for each value of own.
        mark, line: one for each value of others.
    """

    row: Row
    own: str
    others: str
    colour: str
    mark: str
    line: LineStyle


def _series(table: Table, rows: Sequence[Row]) -> list[_Series]:
    baseline = table.definition.baseline
    first: dict[str, int] = {}
    second: dict[str, int] = {}
    found = []
    for row in rows:
        own, others = (
            name_of(
                {field: text for field, text in row.labels.items() if (field in baseline) is its}
            )
            for its in (True, False)
        )
        colour = first.setdefault(own, len(first))
        other = second.setdefault(others, len(second))
        found.append(
            _Series(
                row,
                own,
                others,
                SERIES[colour % len(SERIES)],
                MARKS[other % len(MARKS)],
                STYLES[other % len(STYLES)],
            )
        )
    return found


class _Legend:
    """Names the cells: colours and marks by themselves where that takes fewer names than cells."""

    def __init__(self, series: Sequence[_Series]):
        colours = {one.own: one for one in series if one.own}
        others = {one.others: one for one in series if one.others}
        named = all(one.own or one.others for one in series)
        apart = named and len(colours) + len(others) < len(series)
        self._by_colour = colours if apart else {}
        self._by_mark = others if apart else {}
        self._cells = {} if apart else {one.row.name: one for one in series}
        names = [*self._by_colour, *self._by_mark, *self._cells]
        longest = max(min(len(name), NAME) for name in names)
        self._columns = 1 if longest > 30 else 2 if longest > 15 else 3
        lines = math.ceil(len(names) / self._columns)
        self._empty = 0  # places after the colours, which have a column of their own
        if apart and self._columns > 1:
            lines = max(len(colours), math.ceil(len(others) / (self._columns - 1)))
            self._empty = lines - len(colours)
        self.height = 0.14 * lines  # inches

    def draw(self, figure: Figure, *, marks: bool) -> None:
        """Below a figure, with marks or kinds of lines."""

        def entry(name: str, colour: str, one: _Series | None) -> Line2D:
            line = Line2D([], [], color=colour, label=printable(name, NAME))
            if one is None:
                line.set_linewidth(3)
            elif marks:
                line.set(linestyle="none", marker=one.mark, markersize=4)
            else:
                line.set_linestyle(one.line)
            return line

        figure.legend(
            handles=[
                *(entry(name, one.colour, None) for name, one in self._by_colour.items()),
                *([Line2D([], [], ls="none", label=" ")] * self._empty),
                *(entry(name, INK, one) for name, one in self._by_mark.items()),
                *(entry(name, one.colour, one) for name, one in self._cells.items()),
            ],
            loc="outside lower left",
            ncols=self._columns,
        )


def _half(mean: Mean) -> float | None:
    """Half the width of the interval, for an error bar."""
    return None if mean.interval is None else (mean.interval.high - mean.interval.low) / 2


def _n(rows: Sequence[Row]) -> str:
    counts = [len(row.records) for row in rows]
    low, high = min(counts), max(counts)
    seeds = f"{low}" if low == high else f"{low} to {high}, median {statistics.median(counts):g}"
    return f"n = {seeds} seeds in each of {len(rows)} cells."
