"""A table of a report: each cell with its exact value and the words people see.

HTML and terminal show the same tables, so their numbers cannot differ. A column is one line: its
head, and the function that makes its cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from simsmoe_cli.collapse.findings import Findings, LayerFindings, Matrix, mean_of
from simsmoe_cli.collapse.show.format import UNDEFINED, number


@dataclass(frozen=True)
class Cell:
    """The text to show, its exact value ("" if undefined), and a style."""

    text: str
    value: float | int | str
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """A column's head, and the cell of a row's subject.

    `words`: it holds text, not numbers; `brief`: terminals show it too.
    """

    label: str
    cell: Callable[[Any], Cell]
    brief: bool = False
    words: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells, as many in each as there are columns; the first names the row."""

    id: str
    name: str
    columns: tuple[Column, ...]
    rows: Sequence[tuple[Cell, ...]]

    @classmethod
    def of(cls, id: str, name: str, columns: Iterable[Column], subjects: Iterable[Any]) -> Table:
        """A row for each of the subjects."""
        columns = tuple(columns)
        rows = [tuple(column.cell(subject) for column in columns) for subject in subjects]
        return cls(id, name, columns, rows)

    @property
    def sortable(self) -> bool:
        return len(self.rows) > 2

    def brief(self) -> Table:
        """Only the columns that a terminal has room for."""
        kept = [index for index, column in enumerate(self.columns) if column.brief]
        return Table(
            self.id,
            self.name,
            tuple(self.columns[index] for index in kept),
            [tuple(row[index] for index in kept) for row in self.rows],
        )


def has(main: Findings, name: str) -> bool:
    """Whether a measure was made in any layer: earlier versions had fewer."""
    return any(getattr(layer, name) not in (None, [], {}) for layer in main.layers)


def cell(value: float | None, digits: int = 3) -> Cell:
    """A number with so many decimals."""
    return Cell(number(value, digits), "" if value is None else value)


def text(words: str | None) -> Cell:
    """Words; "undefined" for None."""
    return Cell(UNDEFINED, "") if words is None else Cell(words, words)


def share(value: float | None) -> Cell:
    """A share in percent."""
    return Cell(UNDEFINED, "") if value is None else Cell(f"{value:.1%}", value)


def between(low: float | None, high: float | None, digits: int = 3) -> Cell:
    """An interval, sorted by its lower end."""
    if low is None or high is None:
        return Cell(UNDEFINED, "")
    return Cell(f"{number(low, digits)} to {number(high, digits)}", low)


def of_layer(layer: LayerFindings) -> Cell:
    """What the model calls a layer."""
    return Cell(layer.label, layer.number)


def mean_of_pairs(layer: LayerFindings, matrix: Matrix) -> Cell:
    """The mean of a matrix over the pairs of a layer."""
    return cell(mean_of(matrix[i][j] for i, j in layer.pairs()) if matrix else None)


def dead(count: int | None) -> Cell:
    """How many experts are dead; a dash where that was not judged."""
    if count is None:
        return Cell("–", "")
    return Cell(f"{count:,}", count, "dead" if count else "")


def dead_of(layer: LayerFindings) -> Cell:
    """How many experts of a layer are dead."""
    return dead(None if layer.dead is None else len(layer.dead))
