"""The tables of a report: each cell with its exact value and the words people see.

HTML and terminal show the same tables, so their numbers cannot differ. A column is one line: its
head, and the function that makes its cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from simsmoe_cli.collapse.findings import Findings, LayerFindings, Matrix, mean_of
from simsmoe_cli.collapse.pairs import Pair, most_similar
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.format import UNDEFINED, labels, number, score_of

PAIRS_SHOWN = 20


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


def layers_table(report: Report) -> Table:
    """One row for each layer with experts."""
    main, against = report.main, report.against

    def of_other(layer: LayerFindings) -> Cell:
        other = against.layer_at(layer.layer) if against else None
        return _cell(other.cka_mean.value if other else None)

    def top(layer: LayerFindings) -> Pair | None:
        return next(iter(most_similar([layer], 1)), None)

    columns = [
        Column("layer", lambda layer: Cell(layer.label, layer.number), brief=True),
        Column("mean CKA", lambda layer: _cell(layer.cka_mean.value), brief=True),
        Column(
            f"{main.settings.level:.0%} interval",
            lambda layer: _range(layer.cka_mean.low, layer.cka_mean.high),
            brief=True,
            words=True,
        ),
        Column("null, 95% below", lambda layer: _cell(layer.cka_null.quantile_95), brief=True),
        *([Column(f"mean CKA, {_names(report)[1]}", of_other, brief=True)] if against else []),
        Column(
            "most similar pair",
            lambda layer: _text(pair.name if (pair := top(layer)) else None),
            brief=True,
            words=True,
        ),
        Column(
            "its CKA", lambda layer: _cell(pair.cka if (pair := top(layer)) else None), brief=True
        ),
        Column("biased CKA", lambda layer: _mean_of_pairs(layer, layer.cka_biased)),
        Column("RBF CKA", lambda layer: _mean_of_pairs(layer, layer.cka_rbf)),
        Column("output cosine", lambda layer: _mean_of_pairs(layer, layer.cosine)),
        Column("load CV", lambda layer: _cell(layer.load_cv), brief=True),
        Column("busiest expert", lambda layer: _cell(layer.load_max_over_mean, 2)),
        Column(
            "dead",
            lambda layer: _dead(None if layer.dead is None else len(layer.dead)),
            brief=True,
        ),
        Column("entropy of a token", lambda layer: _cell(layer.entropy_nats)),
        Column("entropy of the mean", lambda layer: _cell(layer.entropy_of_mean_nats)),
        Column("mean effective rank", lambda layer: _cell(mean_of(layer.effective_rank), 1)),
    ]
    return Table.of("layers", "Layers", columns, main.layers)


def pairs_table(report: Report, count: int = PAIRS_SHOWN) -> Table:
    """The most similar pairs of all layers."""
    main = report.main

    def of_pair(name: str) -> Callable[[Pair], Cell]:
        return lambda pair: _cell(getattr(pair.layer, name)[pair.i][pair.j])

    def interval(pair: Pair) -> Cell:
        return _range(pair.layer.cka_low[pair.i][pair.j], pair.layer.cka_high[pair.i][pair.j])

    weights = Column("weights", _weights, brief=True, words=True)
    columns = [
        Column("layer", lambda pair: Cell(pair.layer.label, pair.layer.number), brief=True),
        Column("experts", lambda pair: _text(pair.name), brief=True, words=True),
        *([weights] if any(layer.copies for layer in main.layers) else []),
        Column("CKA", lambda pair: _cell(pair.cka), brief=True),
        Column(f"{main.settings.level:.0%} interval", interval, brief=True, words=True),
        Column("null, 95% below", lambda pair: _cell(pair.layer.cka_null.quantile_95), brief=True),
        Column("biased CKA", of_pair("cka_biased")),
        Column("RBF CKA", of_pair("cka_rbf"), brief=True),
        Column("output cosine", of_pair("cosine")),
        Column("weight cosine", of_pair("weight_cosine")),
        Column("matched weights", of_pair("weight_matched")),
        Column("matched by chance", lambda pair: _cell(pair.layer.weight_matched_chance)),
        Column("shared tokens", lambda pair: _share(pair.layer.shared[pair.i][pair.j]), brief=True),
    ]
    return Table.of("pairs", "Most similar pairs", columns, most_similar(main.layers, count))


@dataclass(frozen=True)
class _Expert:
    """An expert of a layer, and the CKAs with the others that are defined."""

    layer: LayerFindings
    number: int

    @property
    def ckas(self) -> list[tuple[float, int]]:
        row = enumerate(self.layer.cka[self.number])
        return [(cka, other) for other, cka in row if other != self.number and cka is not None]

    @property
    def closest(self) -> tuple[float | None, int | None]:
        """The largest of them and the other expert; of equal ones the first."""
        return max(self.ckas, key=lambda found: (found[0], -found[1]), default=(None, None))


def experts_table(report: Report) -> Table:
    """One row for each expert."""

    def load(expert: _Expert) -> Cell:
        share = expert.layer.load[expert.number]
        return _cell(None if share is None else share * expert.layer.experts, 2)

    def closest(expert: _Expert) -> Cell:
        other = expert.closest[1]
        return Cell(UNDEFINED, "") if other is None else Cell(f"expert {other}", other)

    def most_shared(expert: _Expert) -> Cell:
        shares = expert.layer.shared[expert.number]
        return _share(max((share for share in shares if share is not None), default=None))

    columns = [
        Column("layer", lambda expert: Cell(expert.layer.label, expert.layer.number)),
        Column("expert", lambda expert: Cell(str(expert.number), expert.number)),
        Column("load, fair shares", load),
        Column("state", _state, words=True),
        Column("effective rank", lambda e: _cell(e.layer.effective_rank[e.number], 1)),
        Column("mean CKA with others", lambda e: _cell(mean_of(cka for cka, _ in e.ckas))),
        Column("most similar", closest, words=True),
        Column("their CKA", lambda expert: _cell(expert.closest[0])),
        Column("most tokens shared with one", most_shared),
    ]
    layers = report.main.layers
    experts = [_Expert(layer, number) for layer in layers for number in range(layer.experts)]
    return Table.of("experts", "Experts", columns, experts)


def checkpoints_table(report: Report) -> Table | None:
    """One row for each checkpoint, where there is more than one."""
    if len(report.findings) < 2:
        return None
    name, field, digits = score_of(report.main.text)

    def step(found: Findings) -> Cell:
        at = found.subject.step
        return Cell(UNDEFINED, "") if at is None else Cell(f"{at:,}", at)

    def highest(found: Findings) -> Cell:
        return _cell(found.highest.cka_mean.value if found.highest else None)

    columns = [
        Column("step", step, brief=True),
        Column("mean CKA", lambda found: _cell(found.overall.cka_mean), brief=True),
        Column("highest layer mean", highest, brief=True),
        Column("load CV", lambda found: _cell(found.load_cv), brief=True),
        Column("dead", lambda found: _dead(found.dead), brief=True),
        Column(name, lambda found: _cell(getattr(found.text, field), digits), brief=True),
    ]
    return Table.of("checkpoints", "Checkpoints", columns, report.findings)


def _names(report: Report) -> tuple[str, str]:
    return labels(report.main.subject, report.against.subject if report.against else None)


def _cell(value: float | None, digits: int = 3) -> Cell:
    return Cell(number(value, digits), "" if value is None else value)


def _text(text: str | None) -> Cell:
    return Cell(UNDEFINED, "") if text is None else Cell(text, text)


def _share(share: float | None) -> Cell:
    return Cell(UNDEFINED, "") if share is None else Cell(f"{share:.1%}", share)


def _range(low: float | None, high: float | None) -> Cell:
    if low is None or high is None:
        return Cell(UNDEFINED, "")
    return Cell(f"{number(low)} to {number(high)}", low)


def _mean_of_pairs(layer: LayerFindings, matrix: Matrix) -> Cell:
    return _cell(mean_of(matrix[i][j] for i, j in layer.pairs()))


def _dead(count: int | None) -> Cell:
    if count is None:
        return Cell(UNDEFINED, "")
    return Cell(f"{count:,}", count, "dead" if count else "")


def _state(expert: _Expert) -> Cell:
    """The faults of an expert, or that it is at work."""
    layer, found = expert.layer, []
    if expert.number in layer.non_finite:
        found.append("not finite")
    if expert.number in (layer.dead or ()):
        found.append("dead")
    if group := layer.copies_of(expert.number):
        found.append(f"copy of {next(e for e in group.experts if e != expert.number)}")
    if found:
        return Cell(", ".join(found), ", ".join(found), "dead")
    return _text(None if layer.dead is None else "at work")


def _weights(pair: Pair) -> Cell:
    """Whether two experts have the same weights."""
    if pair.copies is None:
        return _text("different")
    words = "equal, renumbered" if pair.copies.renumbered else "equal"
    return Cell(words, words, "dead")
