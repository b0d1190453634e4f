"""The tables of a report: each cell with its exact value and the words people see.

HTML and terminal show the same tables, so their numbers cannot differ.
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from simsmoe_cli.collapse.findings import Copies, Findings, LayerFindings, Matrix, Report
from simsmoe_cli.collapse.show.format import UNDEFINED, labels, number, score_of

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
    """Two experts of a layer.

    Attributes:
        layer, first, second: which.
        cka: their debiased CKA; None where it is undefined.
        copies: the group of exact copies that both are in; None: they are none.
    """

    layer: LayerFindings
    first: int
    second: int
    cka: float | None
    copies: Copies | None

    @property
    def name(self) -> str:
        return f"{self.first} and {self.second}"


def alike_pairs(layers: Sequence[LayerFindings], count: int) -> list[Pair]:
    """The `count` most alike pairs of these layers: exact copies, then those of the highest CKA.

    Pairs whose CKA is undefined are left out unless they are exact copies. Numbers are compared as
    they are and not as they are shown, and of equal ones the first layer and experts come first.
    """
    found = (
        Pair(layer, first, second, cka, copies)
        for layer in layers
        for first, second in layer.pairs()
        for copies in [copies_of(layer, first, second)]
        if (cka := layer.cka[first][second]) is not None or copies
    )
    return heapq.nsmallest(
        count,
        found,
        key=lambda pair: (
            pair.copies is None,
            math.inf if pair.cka is None else -pair.cka,
            pair.layer.layer,
            pair.first,
            pair.second,
        ),
    )


def copies_of(layer: LayerFindings, *experts: int) -> Copies | None:
    """The group of exact copies that holds all of some experts; None where none does."""
    return next((group for group in layer.copies if set(experts) <= set(group.experts)), None)


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
                Cell(layer.label, layer.number),
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
                _dead(None if layer.dead is None else len(layer.dead)),
                _cell(layer.entropy_nats),
                _cell(layer.entropy_of_mean_nats),
                _cell(mean_of(layer.effective_rank), 1),
            )
        )
    return Table("layers", "Layers", tuple(columns), rows)


def pairs_table(report: Report, count: int = PAIRS_SHOWN) -> Table:
    """The most alike pairs of all layers."""
    level = f"{report.main.settings.level:.0%}"
    with_copies = any(layer.copies for layer in report.main.layers)
    columns = (
        Column("layer", brief=True),
        Column("experts", brief=True, words=True),
        *([Column("weights", brief=True, words=True)] if with_copies else []),
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
                Cell(layer.label, layer.number),
                Cell(pair.name, pair.name),
                *([_weights(pair)] if with_copies else []),
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
            top = max(others, key=lambda found: (found[0], -found[1]), default=None)
            shared = [value for value in layer.shared[expert] if value is not None]
            load = layer.load[expert]
            rows.append(
                (
                    Cell(layer.label, layer.number),
                    Cell(str(expert), expert),
                    _cell(None if load is None else load * layer.experts, 2),
                    _state(layer, expert),
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
        step = found.subject.step
        rows.append(
            (
                Cell(UNDEFINED, "") if step is None else Cell(f"{step:,}", step),
                _cell(found.overall.cka_mean),
                _cell(max(means, default=None)),
                _cell(mean_of([layer.load_cv for layer in found.layers])),
                _dead(dead_experts(found)),
                _cell(getattr(found.text, field), digits),
            )
        )
    return Table("checkpoints", "Checkpoints", columns, rows)


def dead_experts(findings: Findings) -> int | None:
    """How many experts are dead; None where routing is undefined in a layer."""
    dead = [layer.dead for layer in findings.layers]
    return None if None in dead else sum(len(experts or ()) for experts in dead)


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


def _dead(count: int | None) -> Cell:
    if count is None:
        return Cell(UNDEFINED, "")
    return Cell(f"{count:,}", count, "dead" if count else "")


def _state(layer: LayerFindings, expert: int) -> Cell:
    """What is wrong with an expert, or that it is at work."""
    found = []
    if expert in layer.non_finite:
        found.append("not finite")
    if expert in (layer.dead or ()):
        found.append("dead")
    if group := copies_of(layer, expert):
        other = next(member for member in group.experts if member != expert)
        found.append(f"copy of {other}")
    if found:
        return Cell(", ".join(found), ", ".join(found), "dead")
    words = "at work" if layer.dead is not None else UNDEFINED
    return Cell(words, words if layer.dead is not None else "")


def _weights(pair: Pair) -> Cell:
    """Whether two experts have the same weights."""
    if pair.copies is None:
        return Cell("different", "different")
    words = "equal, renumbered" if pair.copies.renumbered else "equal"
    return Cell(words, words, "dead")


def _range(low: float | None, high: float | None) -> Cell:
    if low is None or high is None:
        return Cell(UNDEFINED, "")
    return Cell(f"{number(low)} to {number(high)}", low)
