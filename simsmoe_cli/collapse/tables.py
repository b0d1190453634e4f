"""The tables of a report: each cell with its exact value and the words people see.

HTML and terminal show the same tables, so their numbers cannot differ.
"""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from simsmoe_cli.collapse.findings import LayerFindings, Matrix, Report
from simsmoe_cli.collapse.shown import UNDEFINED, labels, number, score_of

PAIRS_SHOWN = 20


@dataclass(frozen=True)
class Column:
    """A column's head; `words`: it holds text, not numbers; `brief`: terminals show it too."""

    label: str
    brief: bool = False
    words: bool = False


@dataclass(frozen=True)
class Cell:
    """What is shown, the exact value behind it ("" where undefined), and a style."""

    text: str
    value: float | int | str
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells, as many in each as there are columns; the first names the row."""

    id: str
    name: str
    columns: tuple[Column, ...]
    rows: Sequence[tuple[Cell, ...]]

    @property
    def sortable(self) -> bool:
        return len(self.rows) > 2

    def brief(self) -> Table:
        """Only the columns that a terminal has room for."""
        kept = [place for place, column in enumerate(self.columns) if column.brief]
        return Table(
            self.id,
            self.name,
            tuple(self.columns[place] for place in kept),
            [tuple(row[place] for place in kept) for row in self.rows],
        )


@dataclass(frozen=True)
class Pair:
    """Two experts of a layer and their debiased CKA."""

    layer: LayerFindings
    first: int
    second: int
    cka: float

    @property
    def name(self) -> str:
        return f"{self.first} and {self.second}"


def alike_pairs(layers: Sequence[LayerFindings], count: int) -> list[Pair]:
    """The `count` most alike pairs of these layers, of those whose CKA is defined."""
    found = (
        Pair(layer, first, second, cka)
        for layer in layers
        for first, second in layer.pairs()
        if (cka := layer.cka[first][second]) is not None
    )
    return heapq.nlargest(count, found, key=lambda pair: pair.cka)


def layers_table(report: Report) -> Table:
    """One row for each layer with experts."""
    main, against = report.main, report.against
    others = {layer.layer: layer for layer in against.layers} if against else {}
    columns = [
        Column("layer", brief=True),
        Column("mean CKA", brief=True),
        Column(f"{main.settings.level:.0%} interval", brief=True, words=True),
        Column("null, 95% below", brief=True),
        *([Column(_against(report), brief=True)] if against else []),
        Column("most alike pair", brief=True, words=True),
        Column("its CKA", brief=True),
        Column("biased CKA"),
        Column("RBF CKA"),
        Column("output cosine"),
        Column("load CV", brief=True),
        Column("busiest expert"),
        Column("dead", brief=True),
        Column("entropy of a token"),
        Column("entropy of the mean"),
        Column("mean effective rank"),
    ]
    rows = []
    for layer in main.layers:
        top = next(iter(alike_pairs([layer], 1)), None)
        mean = layer.cka_mean
        other = others.get(layer.layer)
        rows.append(
            (
                Cell(str(layer.layer), layer.layer),
                _cell(mean.value),
                _range(mean.low, mean.high),
                _cell(layer.cka_null.quantile_95),
                *([_cell(other.cka_mean.value if other else None)] if against else []),
                Cell(top.name, top.name) if top else Cell(UNDEFINED, ""),
                _cell(top.cka if top else None),
                _cell(_mean_of_pairs(layer, layer.cka_biased)),
                _cell(_mean_of_pairs(layer, layer.cka_rbf)),
                _cell(_mean_of_pairs(layer, layer.cosine)),
                _cell(layer.load_cv),
                _cell(layer.load_max_over_mean, 2),
                Cell(str(len(layer.dead)), len(layer.dead), "dead" if layer.dead else ""),
                _cell(layer.entropy_nats),
                _cell(layer.entropy_of_mean_nats),
                _cell(mean_of(layer.effective_rank), 1),
            )
        )
    return Table("layers", "Layers", tuple(columns), rows)


def pairs_table(report: Report, count: int = PAIRS_SHOWN) -> Table:
    """The most alike pairs of all layers."""
    level = f"{report.main.settings.level:.0%}"
    columns = (
        Column("layer", brief=True),
        Column("experts", brief=True, words=True),
        Column("CKA", brief=True),
        Column(f"{level} interval", brief=True, words=True),
        Column("null, 95% below", brief=True),
        Column("biased CKA"),
        Column("RBF CKA", brief=True),
        Column("output cosine"),
        Column("weight cosine"),
        Column("matched weights"),
        Column("matched by chance"),
        Column("shared tokens", brief=True),
    )
    rows = []
    for pair in alike_pairs(report.main.layers, count):
        layer, i, j = pair.layer, pair.first, pair.second
        shared = layer.shared[i][j]
        rows.append(
            (
                Cell(str(layer.layer), layer.layer),
                Cell(pair.name, pair.name),
                _cell(pair.cka),
                _range(layer.cka_low[i][j], layer.cka_high[i][j]),
                _cell(layer.cka_null.quantile_95),
                _cell(layer.cka_biased[i][j]),
                _cell(layer.cka_rbf[i][j]),
                _cell(layer.cosine[i][j]),
                _cell(layer.weight_cosine[i][j]),
                _cell(layer.weight_matched[i][j]),
                _cell(layer.weight_matched_chance),
                Cell(UNDEFINED, "") if shared is None else Cell(f"{shared:.1%}", shared),
            )
        )
    return Table("pairs", "Most alike pairs", columns, rows)


def experts_table(report: Report) -> Table:
    """One row for each expert."""
    columns = (
        Column("layer"),
        Column("expert"),
        Column("load, fair shares"),
        Column("state", words=True),
        Column("effective rank"),
        Column("mean CKA with others"),
        Column("most alike", words=True),
        Column("their CKA"),
        Column("most tokens shared with one"),
    )
    rows = []
    for layer in report.main.layers:
        for expert in range(layer.experts):
            others = [
                (cka, other)
                for other, cka in enumerate(layer.cka[expert])
                if other != expert and cka is not None
            ]
            top = max(others, default=None)
            shared = [value for value in layer.shared[expert] if value is not None]
            dead = expert in layer.dead
            rows.append(
                (
                    Cell(str(layer.layer), layer.layer),
                    Cell(str(expert), expert),
                    _cell(layer.load[expert] * layer.experts, 2),
                    Cell("dead", "dead", "dead") if dead else Cell("at work", "at work"),
                    _cell(layer.effective_rank[expert], 1),
                    _cell(mean_of([cka for cka, _ in others])),
                    Cell(f"expert {top[1]}", top[1]) if top else Cell(UNDEFINED, ""),
                    _cell(top[0] if top else None),
                    Cell(f"{max(shared):.1%}", max(shared)) if shared else Cell(UNDEFINED, ""),
                )
            )
    return Table("experts", "Experts", columns, rows)


def checkpoints_table(report: Report) -> Table | None:
    """One row for each checkpoint, where there is more than one."""
    if len(report.findings) < 2:
        return None
    name, field, digits = score_of(report.main.text)
    columns = tuple(
        Column(label, brief=True)
        for label in ("step", "mean CKA", "highest layer mean", "load CV", "dead", name)
    )
    rows = []
    for found in report.findings:
        means = [v for layer in found.layers if (v := layer.cka_mean.value) is not None]
        dead = sum(len(layer.dead) for layer in found.layers)
        step = found.subject.step
        rows.append(
            (
                Cell(UNDEFINED, "") if step is None else Cell(f"{step:,}", step),
                _cell(found.overall.cka_mean),
                _cell(max(means, default=None)),
                _cell(mean_of([layer.load_cv for layer in found.layers])),
                Cell(str(dead), dead, "dead" if dead else ""),
                _cell(getattr(found.text, field), digits),
            )
        )
    return Table("checkpoints", "Checkpoints", columns, rows)


def mean_of(values: Sequence[float | None]) -> float | None:
    """Of those defined; None where none is."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _mean_of_pairs(layer: LayerFindings, matrix: Matrix) -> float | None:
    return mean_of([matrix[i][j] for i, j in layer.pairs()])


def _against(report: Report) -> str:
    assert report.against is not None
    return f"mean CKA, {labels(report.main.subject, report.against.subject)[1]}"


def _cell(value: float | None, digits: int = 3) -> Cell:
    return Cell(number(value, digits), "" if value is None else value)


def _range(low: float | None, high: float | None) -> Cell:
    if low is None or high is None:
        return Cell(UNDEFINED, "")
    return Cell(f"{number(low)} to {number(high)}", low)
