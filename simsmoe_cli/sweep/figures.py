"""Figures of a sweep: BPC against CKA, differences to the baseline, curves, similarity by layer."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

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
from simsmoe_cli.sweep.table import CKA, CKA_SHARED, Row, Score, Table

MARKS = "osD^vP*X<>"
STYLES = ("-", "--", ":", "-.")
NAME = 40  # letters of a cell's name


def figures(table: Table) -> Iterator[Drawing]:
    """Those for which there are results."""
    for similarity in (CKA, CKA_SHARED):
        if {table.main.name, similarity.name} <= {score.name for score in table.scores}:
            yield from _drawn(_score_and_similarity(table, similarity))
    for score in (table.main, CKA):
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
    with style():
        figure = new_figure(2.6 + 0.11 * len(rows))
        axes = figure.add_subplot()
        for row, (colour, mark) in _series(table, rows):
            x, y = row.means[similarity.name], row.means[table.main.name]
            axes.errorbar(
                x.mean,
                y.mean,
                xerr=_half(x),
                yerr=_half(y),
                fmt=mark,
                color=colour,
                ms=4,
                lw=0.8,
                capsize=1.5,
                label=printable(row.name, NAME),
            )
        axes.set_xlabel(f"{similarity.label}, mean of all pairs and layers")
        axes.set_ylabel(table.main.label)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=1)
    return Drawing(
        f"{table.main.name}-{similarity.name}",
        f"{table.main.label} against {similarity.label}",
        "One point for each cell: mean over its seeds, with 95% t-intervals of both means "
        f"(none for a single seed). {_n(rows)} Lower left is better.",
        figure,
    )


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
    with style():
        figure = new_figure(2.5 + 0.11 * len(rows))
        axes = figure.add_subplot()
        series = dict(_numbered(table, [row for row, _, _ in rows]))
        for row, steps, values in rows:
            colour, line = series[row.cell.key]
            curve(
                axes,
                steps,
                values,
                STYLES[line % len(STYLES)],
                color=SERIES[colour % len(SERIES)],
                lw=1,
                label=printable(row.name, NAME),
            )
        step_axis(axes)
        axes.set_ylabel("validation BPC")
        leave_out_start(axes, [value for _, _, values in rows for value in values])
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=1)
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
    with style():
        figure = new_figure(2.5 + 0.11 * len(rows))
        axes = figure.add_subplot()
        for row, (colour, mark) in _series(table, rows):
            layers = zip(*(record.layers for record in row.records.values()), strict=False)
            means = [mean_of(layer.cka for layer in seeds) for seeds in layers]
            curve(
                axes,
                range(1, len(means) + 1),
                means,
                f"{mark}-",
                color=colour,
                lw=0.8,
                ms=3,
                label=printable(row.name, NAME),
            )
        step_axis(axes)
        axes.set_xlabel("layer with experts, first to last")
        axes.set_ylabel("mean debiased CKA")
        from_zero(axes)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=1)
    return Drawing(
        "layers",
        "Similarity by layer",
        f"CKA on held-out tokens that all experts see; mean over seeds. {_n(rows)}",
        figure,
    )


def _numbered(table: Table, rows: Sequence[Row]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Two numbers of each cell: of its values in the baseline's fields, and of all others."""
    baseline = table.definition.baseline
    first: dict[str, int] = {}
    second: dict[str, int] = {}
    for row in rows:
        of_baseline = repr([text for name, text in row.labels.items() if name in baseline])
        others = repr([text for name, text in row.labels.items() if name not in baseline])
        yield (
            row.cell.key,
            (
                first.setdefault(of_baseline, len(first)),
                second.setdefault(others, len(second)),
            ),
        )


def _series(table: Table, rows: Sequence[Row]) -> Iterator[tuple[Row, tuple[str, str]]]:
    """Each row with its colour and mark."""
    numbers = dict(_numbered(table, rows))
    for row in rows:
        colour, mark = numbers[row.cell.key]
        yield row, (SERIES[colour % len(SERIES)], MARKS[mark % len(MARKS)])


def _half(mean: Mean) -> float | None:
    """Half the width of the interval, for an error bar."""
    return None if mean.interval is None else (mean.interval.high - mean.interval.low) / 2


def _n(rows: Sequence[Row]) -> str:
    counts = [len(row.records) for row in rows]
    low, high = min(counts), max(counts)
    seeds = f"{low}" if low == high else f"{low} to {high}, median {statistics.median(counts):g}"
    return f"n = {seeds} seeds in each of {len(rows)} cells."
