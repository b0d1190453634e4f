"""Tables of similarity: layers, the most similar pairs, and checkpoints."""

from __future__ import annotations

from collections.abc import Callable

from simsmoe_cli.collapse.findings import Findings, LayerFindings, Matrix, mean_of
from simsmoe_cli.collapse.pairs import SAME_OUTPUT, Pair, most_similar
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.format import UNDEFINED, labels, score_of
from simsmoe_cli.collapse.show.tables.table import (
    Cell,
    Column,
    Table,
    between,
    cell,
    dead,
    dead_of,
    has,
    mean_of_pairs,
    of_layer,
    share,
    text,
)

PAIRS_SHOWN = 20


def layers_table(report: Report) -> Table:
    """Similarity: one row for each layer with experts."""
    main, against = report.main, report.against

    def of_other(layer: LayerFindings) -> Cell:
        other = against.partner_of(layer, main) if against else None
        return cell(other.cka_mean.value) if other else Cell("–", "")  # it has no such layer

    def top(layer: LayerFindings) -> Pair | None:
        return next(iter(most_similar([layer], 1)), None)

    def differ(layer: LayerFindings) -> Cell:
        return _differ(
            mean_of(layer.apart[i][j] for i, j in layer.pairs()) if layer.apart else None
        )

    def of_pairs(head: str, name: str) -> Column:
        return Column(head, lambda layer: mean_of_pairs(layer, getattr(layer, name)))

    columns = [
        Column("layer", of_layer, brief=True),
        Column("mean CKA", lambda layer: cell(layer.cka_mean.value), brief=True),
        Column(
            f"{main.settings.level:.0%} interval",
            lambda layer: between(layer.cka_mean.low, layer.cka_mean.high),
            brief=against is None,
            words=True,
        ),
        *([Column(f"mean CKA, {_names(report)[1]}", of_other, brief=True)] if against else []),
        Column(
            "most similar pair",
            lambda layer: text(pair.name if (pair := top(layer)) else None),
            brief=True,
            words=True,
        ),
        Column(
            "its CKA", lambda layer: cell(pair.cka if (pair := top(layer)) else None), brief=True
        ),
        Column("null, 95% below", lambda layer: cell(layer.cka_null.quantile_95)),
        of_pairs("biased CKA", "cka_biased"),
        of_pairs("RBF CKA", "cka_rbf"),
        *([of_pairs("CKA on shared tokens", "cka_shared")] if has(main, "cka_shared") else []),
        of_pairs("output cosine", "cosine"),
        *([Column("outputs differ by", differ)] if has(main, "apart") else []),
        Column("mean effective rank", lambda layer: cell(mean_of(layer.effective_rank), 1)),
        Column("load CV", lambda layer: cell(layer.load_cv), brief=True),
        Column("dead", dead_of, brief=True),
    ]
    return Table.of("layers", "Layers", columns, main.layers)


def pairs_table(report: Report, count: int = PAIRS_SHOWN) -> Table:
    """The most similar pairs of all layers."""
    main = report.main

    def of_pair(name: str) -> Callable[[Pair], Cell]:
        return lambda pair: cell(_at(getattr(pair.layer, name), pair))

    def interval(pair: Pair) -> Cell:
        return between(_at(pair.layer.cka_low, pair), _at(pair.layer.cka_high, pair))

    weights = Column("weights", _weights, brief=True, words=True)
    differ = Column("outputs differ by", lambda pair: _differ(pair.apart), brief=True)
    columns = [
        Column("layer", lambda pair: of_layer(pair.layer), brief=True),
        Column("experts", lambda pair: text(pair.name), brief=True, words=True),
        *([weights] if any(layer.copies for layer in main.layers) else []),
        Column("CKA", lambda pair: cell(pair.cka), brief=True),
        Column(f"{main.settings.level:.0%} interval", interval, brief=True, words=True),
        *([differ] if has(main, "apart") else []),
        Column("shared tokens", lambda pair: share(_at(pair.layer.shared, pair)), brief=True),
        *(
            [Column("CKA on shared tokens", of_pair("cka_shared"))]
            if has(main, "cka_shared")
            else []
        ),
        Column("null, 95% below", lambda pair: cell(pair.layer.cka_null.quantile_95)),
        Column("biased CKA", of_pair("cka_biased")),
        Column("RBF CKA", of_pair("cka_rbf"), brief=not has(main, "apart")),
        Column("output cosine", of_pair("cosine")),
        Column("weight cosine", of_pair("weight_cosine")),
        Column("matched weights", of_pair("weight_matched")),
        Column("matched by chance", lambda pair: cell(pair.layer.weight_matched_chance)),
    ]
    return Table.of("pairs", "Most similar pairs", columns, most_similar(main.layers, count))


def checkpoints_table(report: Report) -> Table | None:
    """One row for each checkpoint, where there is more than one."""
    if len(report.findings) < 2:
        return None
    name, field, digits = score_of(report.main.text)

    def step(found: Findings) -> Cell:
        at = found.subject.step
        return Cell(UNDEFINED, "") if at is None else Cell(f"{at:,}", at)

    def highest(found: Findings) -> Cell:
        return cell(found.highest.cka_mean.value if found.highest else None)

    columns = [
        Column("step", step, brief=True),
        Column("mean CKA", lambda found: cell(found.overall.cka_mean), brief=True),
        Column("highest layer mean", highest, brief=True),
        Column("load CV", lambda found: cell(found.load_cv), brief=True),
        Column("dead", lambda found: dead(found.dead), brief=True),
        Column(name, lambda found: cell(getattr(found.text, field), digits), brief=True),
    ]
    return Table.of("checkpoints", "Checkpoints", columns, report.findings)


def _at(matrix: Matrix, pair: Pair) -> float | None:
    return matrix[pair.i][pair.j] if matrix else None


def _differ(apart: float | None) -> Cell:
    if apart is None:
        return Cell(UNDEFINED, "")
    return Cell(f"{apart:.0%}", apart, "dead" if apart <= SAME_OUTPUT else "")


def _names(report: Report) -> tuple[str, str]:
    return labels(report.main.subject, report.against.subject if report.against else None)


def _weights(pair: Pair) -> Cell:
    """Whether two experts have the same weights."""
    if pair.copies is None:
        return text("different")
    words = "equal, renumbered" if pair.copies.renumbered else "equal"
    return Cell(words, words, "dead")
