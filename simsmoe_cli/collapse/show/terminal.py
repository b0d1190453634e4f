"""A report in a terminal: verdict, first numbers, tables, and where the files are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simsmoe_cli.collapse.fail_above import partly_undefined
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.files import FIGURES
from simsmoe_cli.collapse.show.summary import TONES, about, tiles
from simsmoe_cli.collapse.show.tables.similarity import (
    checkpoints_table,
    layers_table,
    pairs_table,
)
from simsmoe_cli.collapse.show.tables.table import Table as Shown
from simsmoe_cli.errors import escaped

PAIRS_SHOWN = 5
STYLES = {"good": "green", "note": "", "warning": "yellow", "bad": "red"}


def show(report: Report, console: Console, written: Sequence[Path]) -> None:
    """Print the summary of a report.

    Args:
        report: what to show.
        console: takes text as it is, as `cli.options.console` gives.
        written: its files.
    """
    verdict = report.verdict
    style = STYLES[TONES[verdict.level]]
    console.print(Text(escaped(report.main.subject.name), "bold"))
    console.print(Text(escaped(about(report)), "dim"))
    console.print()
    console.print(Text(escaped(verdict.headline), f"bold {style}"))
    for sentence in (verdict.cost, verdict.advice):
        if sentence:
            console.print(Text(escaped(sentence)))
    console.print()
    numbers = Table.grid(padding=(0, 2))
    for tile in tiles(report.main, report.against):
        for row, (name, value) in enumerate(tile.values):
            numbers.add_row(
                Text("" if row else escaped(tile.label)),
                *([Text(escaped(name))] if report.against else []),
                Text(value.text, "bold"),
                Text(escaped(value.note), "dim"),
            )
    console.print(numbers)
    _print_table(console, layers_table(report).brief())
    for text in partly_undefined(report.main):
        console.print(Text(f"Note: {text}.", "yellow"))
    checkpoints = checkpoints_table(report)
    if checkpoints is not None:
        _print_table(console, checkpoints)
    _print_table(console, pairs_table(report, PAIRS_SHOWN).brief())
    _print_files(console, written)


def _print_table(console: Console, shown: Shown) -> None:
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=shown.name, title_justify="left")
    for column in shown.columns:
        drawn.add_column(Text(escaped(column.label)), justify="left" if column.words else "right")
    for row in shown.rows:
        drawn.add_row(*(Text(escaped(cell.text), "red" if cell.tone else "") for cell in row))
    console.print(drawn)


def _print_files(console: Console, written: Sequence[Path]) -> None:
    """Where the report is; figures by their folder."""
    figures = [path for path in written if path.parent.name == FIGURES]
    for path in written:
        if path not in figures:
            console.print(Text(escaped(str(path))), soft_wrap=True)
    if figures:
        where = escaped(str(figures[0].parent))
        console.print(Text(f"{where} ({len(figures)} files)"), soft_wrap=True)
