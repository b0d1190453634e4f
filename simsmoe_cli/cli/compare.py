"""`simsmoe compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simsmoe_cli.cli.options import RUNS_DIR, JsonOption, RunsDirOption, console, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from simsmoe_cli.compare.runs import Comparison

MANY_RUNS = 4
PLOT_WIDTH, PLOT_HEIGHT = 100, 12
PLOT_STYLES = ("blue", "dark_orange", "green", "magenta", "yellow", "cyan")


RunsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        help="Run folders, their names under --runs-dir, or folders with a collapse report, as "
        "of a Hugging Face model.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write it too: a page (.html), or the curves (.svg, .png)."),
]


def compare(
    runs: RunsArgument,
    out: OutOption = None,
    runs_dir: RunsDirOption = RUNS_DIR,
    as_json: JsonOption = False,
) -> None:
    """Set runs side by side: settings that differ, scores, similarity, load, speed and curves."""
    from simsmoe_cli.compare import runs as comparing
    from simsmoe_cli.run.find import find_folder
    from simsmoe_cli.run.folder import RunDir

    if out is not None:
        from simsmoe_cli.collapse.show.html import check_destination, write_comparison

        comparing.check_suffix(out)
        check_destination(out.absolute().parent)
    folders = []
    for run in runs:
        try:
            folders.append(RunDir(find_folder(run, runs_dir)))
        except OSError:  # said where it is read, so that others are compared all the same
            folders.append(RunDir(runs_dir / run))
    comparison = comparing.compare(folders)
    if out is not None:
        write_comparison(comparison, out)
    if as_json:
        print_json(comparison.to_json())
        return
    _show(comparison, console())
    if out is not None:
        console().print(str(out), soft_wrap=True)


def _show(comparison: "Comparison", console: "Console") -> None:
    """Print several runs side by side: a column for each, or a row where they are many; curves."""
    import numpy as np
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from simsmoe_cli.collapse.show.format import clean, short
    from simsmoe_cli.compare.runs import CURVES, table
    from simsmoe_cli.monitor.draw.canvas import Curve, line_plot

    cells = table(comparison)
    if len(comparison.runs) > MANY_RUNS:
        cells = [list(column) for column in zip(*cells, strict=True)]
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(cells[0]):
        drawn.add_column(Text(clean(name)), justify="right" if place else "left", overflow="fold")
    for row in cells[1:]:
        drawn.add_row(*(Text(clean(cell)) for cell in row))
    console.print(drawn)
    console.print(Text("* the best of the runs", "dim"))
    for note in comparison.notes:
        console.print(Text(f"Note: {clean(note)}.", "dim"))
    width = min(console.width, PLOT_WIDTH)
    for name, label in CURVES.items():
        curves = [
            Curve(
                short(run.label),
                np.array(run.curves[name].steps, dtype=float),
                np.array(run.curves[name].values, dtype=float),
                style=PLOT_STYLES[place % len(PLOT_STYLES)],
            )
            for place, run in enumerate(comparison.runs)
        ]
        if not any(np.isfinite(curve.y).any() for curve in curves):
            continue
        console.print()
        for line in line_plot(
            curves, width, PLOT_HEIGHT, title=label, x_label="step", color=console.is_terminal
        ):
            console.print(line)
