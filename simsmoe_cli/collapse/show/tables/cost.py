"""Tables of what it costs to have one expert instead of two."""

from __future__ import annotations

from collections.abc import Callable

from simsmoe_cli.collapse.ablation import Change, MeanCost, PairCost
from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.format import UNDEFINED, number
from simsmoe_cli.collapse.show.tables.table import Cell, Column, Table, cell, of_layer, text


def merging_table(report: Report) -> Table | None:
    """Similar pairs against random ones, as means; None where nothing was merged."""
    measured = report.main.ablation
    if measured is None or measured.similar is None or measured.random is None:
        return None
    rows = [
        ("the most similar pairs", measured.similar),
        ("random pairs", measured.random),
        ("difference", measured.similar_minus_random),
    ]

    def of(pick: Callable[[MeanCost], Change | None]) -> Callable[[tuple[str, MeanCost]], Cell]:
        return lambda row: _change(pick(row[1]))

    columns = [
        Column("mean over", lambda row: text(row[0]), brief=True, words=True),
        Column("pairs", lambda row: cell(row[1].pairs, 0), brief=True),
        Column("one takes both's tokens", of(lambda cost: cost.hand_over), brief=True, words=True),
        Column("weights averaged", of(lambda cost: cost.merged), brief=True, words=True),
        Column("outputs averaged", of(lambda cost: cost.mean_output), brief=True, words=True),
    ]
    name = "One expert instead of two: change of the loss, nats"
    return Table.of("merging", name, columns, [row for row in rows if row[1] is not None])


def pair_costs_table(report: Report) -> Table | None:
    """Every pair of which one expert was made; None where none was."""
    main, measured = report.main, report.main.ablation
    if measured is None or not measured.pairs:
        return None
    columns = [
        Column("layer", lambda pair: _layer(main, pair)),
        Column("experts", lambda pair: text(" and ".join(map(str, pair.experts))), words=True),
        Column("chosen", lambda pair: text(pair.kind), words=True),
        Column("CKA", lambda pair: cell(pair.cka)),
        Column("one takes both's tokens", lambda pair: _change(pair.hand_over), words=True),
        Column("weights averaged", lambda pair: _change(pair.merged), words=True),
        Column("outputs averaged", lambda pair: _change(pair.mean_output), words=True),
    ]
    return Table.of("pair-costs", "Pair by pair", columns, measured.pairs)


def _layer(main: Findings, pair: PairCost) -> Cell:
    layer = main.layer_at(pair.layer)
    return of_layer(layer) if layer else cell(pair.layer, 0)


def _change(change: Change | None) -> Cell:
    """A change of the loss and its interval, in nats."""
    if change is None or change.nats is None:
        return Cell(UNDEFINED if change else "–", "")
    shown = number(change.nats, 4)
    if change.low is not None and change.high is not None:
        shown += f" ({number(change.low, 4)} to {number(change.high, 4)})"
    return Cell(shown, change.nats)
