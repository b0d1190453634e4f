"""Shows the results of a sweep: in a terminal, and as a CSV file and an HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simsmoe_cli.compare.seeds import NO_DIFFERENCE
from simsmoe_cli.errors import counted, escaped
from simsmoe_cli.files import atomic
from simsmoe_cli.sweep.cells import as_yaml
from simsmoe_cli.sweep.definition import PRESET, SEEDS, TEXT, Definition
from simsmoe_cli.sweep.table import Table
from simsmoe_cli.sweep.table_text import (
    NOT_SHOWN,
    SHOWN,
    as_csv,
    columns,
    published_columns,
    published_rows,
    text_rows,
)

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.table import Table as Drawn

# Presets that compare the pairs which are due, which a CPU skips when there are none.
OF_THE_PAPER = ("published", "paper")
PAGE, CSV = "results.html", "results.csv"


def about(table: Table) -> list[str]:
    """What the table is made of, a sentence each."""
    definition = table.definition
    counts = sorted({len(row.cell.seeds) for row in table.rows})
    seeds = counted(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    said = [
        f"Recipe {Path(definition.recipe).stem}; text: {table.corpora or 'none yet'}; {seeds} of "
        "each cell."
    ]
    if definition.published is not None:
        said.append(f"Published numbers: {definition.published.source}.")
    if definition.changes:
        holds = "; this holds where a line below says otherwise" if definition.published else ""
        said.append(f"Changed here: {', '.join(_changes(definition))}{holds}.")
    if table.finished < table.wanted:
        said.append(f"{table.finished} of {table.wanted} trainings have finished.")
    return said


def _changes(definition: Definition) -> Iterator[str]:
    for name, value in definition.changes.items():
        yield f"{name} {value}" if name in (SEEDS, TEXT) else f"{name}={as_yaml(value)}"


def notes(table: Table) -> list[str]:
    """How to read the table, a sentence each."""
    said = [
        "Means over seeds ± standard error. CKA: debiased linear CKA of the experts' outputs on "
        "held-out tokens, mean of all pairs and layers; on shared tokens: those sent to both "
        "experts of a pair."
    ]
    if table.definition.baseline:
        said.append(
            "Δ: difference to the baseline, paired by seed, with the 95% interval of Student's t. "
            f"{NOT_SHOWN}: {NO_DIFFERENCE}, since the interval holds zero. Seeds for {SHOWN:g}: "
            f"how many would show a difference of {SHOWN:g} in {table.main.label} in four of five "
            "cases. results.csv has the bootstrap's intervals as well."
        )
    at_most = ", ".join(name for name in OF_THE_PAPER if name in _presets(table))
    as_if = f" ({at_most}: at most, as if pairs were compared in every step)" if at_most else ""
    said.append(
        f"GFLOPs: of the training, similarity learning included{as_if}. min: minutes of the "
        "training steps on the machine that ran them. Minutes of trainings that ran at different "
        "times or beside other work cannot be compared; GFLOPs can."
    )
    return said


def _presets(table: Table) -> set[object]:
    """The presets of similarity learning that the cells have."""
    of_all = table.definition.settings.get(PRESET)
    return {row.cell.settings.get(PRESET, of_all) for row in table.rows}


def print_table(table: Table, console: Console) -> None:
    """Print the table, and how to read it."""
    from rich.text import Text

    for line in (table.definition.name, *about(table)):
        console.print(Text(escaped(line)), soft_wrap=True)
    published = table.definition.published
    for line in published.differs if published else ():
        console.print(Text(escaped(f"Differs from the publication: {line}")), soft_wrap=True)
    console.print(table_for_terminal(table))
    if beside := list(published_rows(table)):
        fields = len(beside[0]) - 4
        console.print(_drawn(published_columns(table), beside, fields))
    for line in notes(table):
        console.print(Text(line, "dim"), soft_wrap=True)


def table_for_terminal(table: Table) -> Drawn:
    """The table of all cells."""
    return _drawn(columns(table), list(text_rows(table)), len(table.rows[0].labels))


def _drawn(names: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> Drawn:
    """Rows as a table of a terminal, whose first columns are words."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(names):
        justify: JustifyMethod = "left" if number < words else "right"
        drawn.add_column(Text(escaped(name)), justify=justify, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(escaped(cell)) for cell in row))
    return drawn


def write_results(table: Table, folder: Path, failed: Mapping[str, str]) -> None:
    """Write results.csv and results.html.

    Args:
        table: to show.
        folder: to write to.
        failed: why trainings failed, by name.
    """
    from simsmoe_cli.collapse.show.page import on_page, render
    from simsmoe_cli.sweep.figures import figures

    definition = table.definition
    published = definition.published
    page = render(
        "sweep.html.j2",
        name=definition.name,
        description=definition.description,
        about=about(table),
        differs=published.differs if published else [],
        tables=[
            ("All cells", columns(table), list(text_rows(table))),
            ("Beside the published numbers", published_columns(table), list(published_rows(table))),
        ],
        notes=notes(table),
        figures=[on_page(drawing) for drawing in figures(table)],
        failed=[f"{name}: {reason}" for name, reason in failed.items()],
    )
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write(folder / PAGE, page)
    atomic.write(folder / CSV, as_csv(table))
