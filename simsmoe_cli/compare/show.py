"""Several runs side by side: in a terminal, as an HTML page, and as a figure of their curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from simsmoe_cli.compare.measures import CURVES, MEASURES, Measure
from simsmoe_cli.compare.read import RunSummary
from simsmoe_cli.compare.statistics import Comparison
from simsmoe_cli.errors import DataError, UserError, escaped, nearest, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from simsmoe_cli.collapse.show.figures.style import Drawing

ABSENT = "–"
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
    """The header and the rows of the comparison as text, one column for each run.

    The best value of a measure is marked with `*` where the runs differ in it.
    """
    runs = comparison.runs
    rows = [["", *(run.label for run in runs)], ["status", *(_status(run) for run in runs)]]
    for path in comparison.differing:
        rows.append([path, *(_setting(run.settings.get(path)) for run in runs)])
    for measure in MEASURES:
        values = [run.measures[measure.name] for run in runs]
        known = [value for value in values if value is not None]
        if known:
            best = measure.best(known) if len(set(known)) > 1 else None
            rows.append([measure.label, *(_value(value, measure, best) for value in values)])
    return rows


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print several runs: a column for each, or a row where they are many; then their curves."""
    import numpy as np
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from simsmoe_cli.collapse.show.format import NAME
    from simsmoe_cli.monitor.draw.canvas import Curve, line_plot

    cells = table(comparison)
    if len(comparison.runs) > MANY_RUNS:
        cells = [list(column) for column in zip(*cells, strict=True)]
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(cells[0]):
        drawn.add_column(Text(escaped(name)), justify="right" if index else "left", overflow="fold")
    for row in cells[1:]:
        drawn.add_row(*(Text(escaped(cell)) for cell in row))
    console.print(drawn)
    console.print(Text("* the best of the runs", "dim"))
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


def _value(value: float | None, measure: Measure, best: float | None) -> str:
    if value is None:
        return ABSENT
    form = measure.form if abs(value) < 1e12 else ".3g"
    return f"{value:{form}}{'*' if value == best else ''}"


def _setting(value: Any) -> str:
    """A setting's value as in a recipe."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else printable(value)
