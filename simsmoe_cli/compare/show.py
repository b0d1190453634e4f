"""Several runs side by side: in a terminal, as an HTML page, and as a figure of their curves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from simsmoe_cli.compare.groups import SEED
from simsmoe_cli.compare.measures import CURVES, MEASURES, Measure
from simsmoe_cli.compare.read import RunSummary
from simsmoe_cli.compare.seeds import NO_DIFFERENCE, Difference, Mean
from simsmoe_cli.compare.statistics import Comparison
from simsmoe_cli.errors import DataError, UserError, escaped, nearest, printable
from simsmoe_cli.run.changes import changes_results, in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from simsmoe_cli.collapse.show.figures.style import Drawing

ABSENT = "–"
RESULTS, NO_RESULTS = "settings that change results", "settings that change no results"
SUFFIXES = (".html", ".pdf", ".png", ".svg")
MANY_RUNS = 4  # with more, each run has a row in a terminal instead of a column
PLOT_WIDTH, PLOT_HEIGHT = 100, 12
PLOT_STYLES = ("blue", "dark_orange", "green", "magenta", "yellow", "cyan")


def check_out(out: Path) -> None:
    """Refuse a file that is neither a page nor a figure, or that cannot be written.

    Raises:
        UserError: its name ends otherwise, or its folder cannot be written.
    """
    from simsmoe_cli.collapse.show.files import check_destination

    if out.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"unknown suffix '{printable(out.suffix)}'",
            where="--out",
            hint=nearest(out.suffix, SUFFIXES),
        )
    check_destination(out.absolute().parent)


def table(comparison: Comparison) -> list[list[str]]:
    """The header and the rows of the comparison as text: scores first, then settings.

    There is one column for each run, or for each setting if any has several seeds. A row whose
    cells are empty but for the first is the title of those below.
    """
    groups = comparison.groups
    if comparison.seeded:
        seeds = [", ".join(map(str, group.runs)) for group in groups]
        rows = [["", *(group.label for group in groups)], ["seeds", *seeds]]
        rows += [["status", *(_statuses(list(group.runs.values())) for group in groups)]]
    else:
        rows = [["", *(run.label for run in comparison.runs)]]
        rows += [["status", *(_status(run) for run in comparison.runs)]]
    for measure in MEASURES:
        rows += _scores(comparison, measure)
    differing = [path for path in comparison.differing if not comparison.seeded or path != SEED]
    for title, matters in ((RESULTS, True), (NO_RESULTS, False)):
        paths = [path for path in differing if changes_results(path) == matters]
        if paths:
            rows.append([title, *([""] * len(groups))])
        for path in paths:
            rows.append([path, *(_setting(group.first, path) for group in groups)])
    return rows


def _scores(comparison: Comparison, measure: Measure) -> list[list[str]]:
    """A measure of each column, and its difference to the baseline; nothing if none has it.

    The best value is marked with `*` where the values differ, and the runs' budgets and the amount
    of text they were scored on do not.
    """
    groups = comparison.groups
    means = [group.mean(measure.name) for group in groups]
    known = [mean.mean for mean in means if mean is not None]
    if not known:
        return []
    marked = comparison.has_best(measure) and len(set(known)) > 1
    best = measure.best(known) if marked else None
    rows = [[measure.label, *(_mean(mean, measure, best) for mean in means)]]
    if len(groups) > 1 and (comparison.seeded or measure.score):
        found = [group.difference(groups[0], measure.name) for group in groups[1:]]
        if any(found):
            cells = [_difference(difference, measure) for difference in found]
            rows.append([f"minus {groups[0].label}", "", *cells])
    return rows


def _mean(mean: Mean | None, measure: Measure, best: float | None) -> str:
    if mean is None:
        return ABSENT
    error = "" if mean.standard_error is None else f" ± {mean.standard_error:{measure.form}}"
    return f"{_value(mean.mean, measure)}{error}{'*' if mean.mean == best else ''}"


def _difference(difference: Difference | None, measure: Measure) -> str:
    """A difference with its 95% interval, and how many seeds it would take where it is not
    shown."""
    if difference is None:
        return ABSENT
    words = f"{difference.mean:+{measure.form}}"
    if difference.t is None:
        return f"{words} (one pair)"
    words += f" ({difference.t.low:+{measure.form}} to {difference.t.high:+{measure.form}})"
    if difference.shown:
        return words
    words += f", {NO_DIFFERENCE}"
    seeds = difference.seeds_to_show(difference.mean) if difference.mean else None
    return words if seeds is None else f"{words}; it would take {seeds:,} seeds"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print several runs: a column for each, or a row where they are many; then their curves."""
    import numpy as np
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from simsmoe_cli.collapse.show.format import NAME
    from simsmoe_cli.monitor.draw.canvas import Curve, line_plot

    cells = table(comparison)
    if len(comparison.groups) > MANY_RUNS:
        cells = [row for row in cells if any(row[1:])]  # without titles
        cells = [list(column) for column in zip(*cells, strict=True)]
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(cells[0]):
        drawn.add_column(Text(escaped(name)), justify="right" if index else "left", overflow="fold")
    for row in cells[1:]:
        title = len(comparison.groups) <= MANY_RUNS and row[0] and not any(row[1:])
        if title:
            drawn.add_section()
        drawn.add_row(*(Text(escaped(cell), "bold" if title else "") for cell in row))
    console.print(drawn)
    for remark in legend(comparison):
        console.print(Text(remark, "dim"))
    for note in comparison.notes:
        console.print(Text(f"Note: {escaped(note)}.", "dim"))
    width = min(console.width, PLOT_WIDTH)
    for name in _kinds(comparison):
        curves = [
            Curve(
                printable(run.label, NAME),
                np.array(run.curves[name].steps, dtype=float),
                np.array(run.curves[name].values, dtype=float),
                style=PLOT_STYLES[index % len(PLOT_STYLES)],
            )
            for index, run in enumerate(comparison.runs)
        ]
        color = console.is_terminal
        console.print()
        for line in line_plot(
            curves, width, PLOT_HEIGHT, title=CURVES[name], x_label="step", color=color
        ):
            console.print(line)


def legend(comparison: Comparison) -> list[str]:
    """What marks in the table mean."""
    lines = ["* the best of the runs"] if any(map(comparison.has_best, MEASURES)) else []
    if comparison.seeded:
        lines.append(
            "mean ± standard error over seeds; differences are paired by seed, with 95% intervals "
            "(Student's t)"
        )
    return lines


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write several runs side by side into one file.

    Args:
        comparison: what to show.
        out: a page (.html), or the curves alone (.pdf, .svg, .png).

    Raises:
        UserError: there is no curve to draw, or the file cannot be written.
    """
    from simsmoe_cli.collapse.show.figures.style import figure_file
    from simsmoe_cli.collapse.show.files import clear_os_errors
    from simsmoe_cli.files import atomic

    kinds = _kinds(comparison)
    if out.suffix.lower() == ".html":
        content = _page(comparison).encode()
    elif kinds:
        content = figure_file(_figure(comparison, kinds), out.suffix.lower()[1:])
    else:
        raise DataError(
            "these runs have no curves yet",
            where=str(out),
            hint="Compare them when they have trained for some steps.",
        )
    with clear_os_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(out, content)


def _page(comparison: Comparison) -> str:
    from simsmoe_cli.collapse.show.page import on_page, render

    header, *rows = table(comparison)
    return render(
        "compare.html.j2",
        names=[run.label for run in comparison.runs],
        notes=comparison.notes,
        legend=legend(comparison),
        header=header,
        rows=rows,
        figures=[on_page(_figure(comparison, [kind])) for kind in _kinds(comparison)],
    )


def _kinds(comparison: Comparison) -> list[str]:
    """The curves, of `CURVES`, that any run has."""
    return [
        name
        for name in CURVES
        if any(value is not None for run in comparison.runs for value in run.curves[name].values)
    ]


def _figure(comparison: Comparison, kinds: Sequence[str]) -> Drawing:
    """Curves of several runs over each other, one panel for each of `kinds`."""
    from simsmoe_cli.collapse.show.figures import style as drawing
    from simsmoe_cli.collapse.show.figures.training import curve, leave_out_start

    count, colours = len(comparison.runs), drawing.SERIES
    with drawing.style():
        panel = 1.7 if len(kinds) > 1 else 2.1
        figure = drawing.new_figure(0.4 + 0.13 * count + panel * len(kinds))
        grid = figure.subplots(len(kinds), 1, squeeze=False, sharex=True)[:, 0]
        for name, axes in zip(kinds, grid, strict=True):
            for index, run in enumerate(comparison.runs):
                values = run.curves[name].values
                dots = "o" if len(values) <= 40 else ""
                curve(
                    axes,
                    run.curves[name].steps,
                    values,
                    dots + ("-", "--", ":")[index // len(colours) % 3],
                    color=colours[index % len(colours)],
                    label=printable(run.label, 48),
                    ms=2.5,
                    lw=1.2,
                )
            if len(kinds) > 1:
                axes.set_title(CURVES[name], loc="left")
            drawing.step_axis(axes)
            if name.endswith("bpc"):
                leave_out_start(
                    axes, [v for run in comparison.runs for v in run.curves[name].values]
                )
            elif not name.endswith("accuracy"):
                drawing.from_zero(axes)
            axes.label_outer()
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=1)
    points = sum(len(run.curves[name].values) for run in comparison.runs for name in kinds)
    title = CURVES[kinds[0]] if len(kinds) == 1 else "Runs compared"
    return drawing.Drawing(
        f"comparison-{'-'.join(kinds)}",
        title[:1].upper() + title[1:],
        "What each training logged.",
        figure,
        numbers=f"n = {points:,} points of {count} runs. One run each, so there is no interval; no "
        f"null is drawn.",
    )


def _status(run: RunSummary) -> str:
    if run.reported:
        return run.status
    of = "" if run.total_steps is None else f" of {run.total_steps:,}"
    return f"{run.status}, step {run.step:,}{of}"


def _statuses(runs: list[RunSummary]) -> str:
    """The status of several runs: "3 finished", or of each that is different."""
    counts = Counter(_status(run) for run in runs)
    return "; ".join(f"{count} {status}" for status, count in counts.items())


def _value(value: float, measure: Measure) -> str:
    return f"{value:{measure.form if abs(value) < 1e12 else '.3g'}}"


def _setting(run: RunSummary, path: str) -> str:
    """A setting's value as in a recipe; of one that was changed, all its values."""
    value, changes = run.history(path)
    if not changes:
        return ABSENT if value is None else in_words(value)
    later = (f" -> {in_words(after)} from step {step}" for step, _, after in changes)
    return in_words(changes[0][1]) + "".join(later)
