"""Tables of routing: layers, experts, and what each expert receives."""

from __future__ import annotations

from dataclasses import dataclass

from simsmoe_cli.collapse.ablation import Change
from simsmoe_cli.collapse.findings import LayerFindings, mean_of
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.format import UNDEFINED
from simsmoe_cli.collapse.show.tables.table import (
    Cell,
    Column,
    Table,
    between,
    cell,
    dead_of,
    has,
    mean_of_pairs,
    of_layer,
    share,
    text,
)
from simsmoe_cli.errors import printable

TOKENS_SHOWN = 5  # of those that an expert receives more often than its share


def routing_table(report: Report) -> Table:
    """Load and router: one row for each layer with experts."""
    main = report.main

    def latest(layer: LayerFindings) -> Cell:
        return share(layer.saturation[-1].share if layer.saturation else None)

    optional = [
        ("max_violation", Column("MaxVio", lambda layer: cell(layer.max_violation))),
        (
            "effective_experts",
            Column("effective experts", lambda layer: share(layer.effective_experts)),
        ),
        (
            "router_cosine",
            Column(
                "cosine of router rows", lambda layer: mean_of_pairs(layer, layer.router_cosine)
            ),
        ),
        (
            "margin",
            Column(
                "median margin",
                lambda layer: cell(layer.margin.median if layer.margin else None),
            ),
        ),
        ("saturation", Column("same experts as at the checkpoint before", latest)),
    ]
    columns = [
        Column("layer", of_layer),
        Column("load CV", lambda layer: cell(layer.load_cv)),
        Column("busiest expert", lambda layer: cell(layer.load_max_over_mean, 2)),
        *(column for name, column in optional if has(main, name)),
        Column("dead", dead_of),
        Column("entropy of a token", lambda layer: cell(layer.entropy_nats)),
        Column("entropy of the mean", lambda layer: cell(layer.entropy_of_mean_nats)),
        Column("largest possible", lambda layer: cell(layer.entropy_max_nats)),
    ]
    return Table.of("routing", "Routing", columns, main.layers)


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
        return cell(None if share is None else share * expert.layer.experts, 2)

    def closest(expert: _Expert) -> Cell:
        other = expert.closest[1]
        return Cell(UNDEFINED, "") if other is None else Cell(f"expert {other}", other)

    def most_shared(expert: _Expert) -> Cell:
        shares = expert.layer.shared[expert.number]
        return share(max((share for share in shares if share is not None), default=None))

    main = report.main
    changes = {
        (one.layer, one.expert): one.change
        for one in (main.ablation.left_out if main.ablation else [])
    }

    def change(expert: _Expert) -> Change:
        return changes.get((expert.layer.layer, expert.number), Change(nats=None))

    without = [
        Column("loss without it, nats", lambda expert: cell(change(expert).nats, 4)),
        Column(
            "interval",
            lambda expert: between(change(expert).low, change(expert).high, 4),
            words=True,
        ),
    ]
    saliency = Column("REAP saliency", lambda expert: cell(_nth(expert.layer.saliency, expert)))
    columns = [
        Column("layer", lambda expert: of_layer(expert.layer)),
        Column("expert", lambda expert: Cell(str(expert.number), expert.number)),
        Column("load, fair shares", load),
        Column("state", _state, words=True),
        *(without if changes else []),
        *([saliency] if has(main, "saliency") else []),
        Column("effective rank", lambda e: cell(e.layer.effective_rank[e.number], 1)),
        Column("mean CKA with others", lambda e: cell(mean_of(cka for cka, _ in e.ckas))),
        Column("most similar", closest, words=True),
        Column("their CKA", lambda expert: cell(expert.closest[0])),
        Column("most tokens shared with one", most_shared),
    ]
    return Table.of("experts", "Experts", columns, _experts(report))


def favourites_table(report: Report) -> Table | None:
    """The tokens that each expert receives more often than its share; None where not measured."""
    if not has(report.main, "favourites"):
        return None

    def words(expert: _Expert) -> Cell:
        found = expert.layer.favourites[expert.number] if expert.layer.favourites else []
        shown = ", ".join(
            f"'{printable(one.text)}' {one.share:.0%}" for one in found[:TOKENS_SHOWN]
        )
        return Cell(shown or "none", shown)

    columns = [
        Column("layer", lambda expert: of_layer(expert.layer)),
        Column("expert", lambda expert: Cell(str(expert.number), expert.number)),
        Column("share of all tokens", lambda expert: share(_nth(expert.layer.frequency, expert))),
        Column(
            "vocabulary specialisation", lambda expert: share(_nth(expert.layer.vocabulary, expert))
        ),
        Column("tokens it gets more of, and their share", words, words=True),
    ]
    return Table.of("tokens", "What each expert receives", columns, _experts(report))


def _state(expert: _Expert) -> Cell:
    """The faults of an expert, or that it is at work, or not judged."""
    layer, found = expert.layer, []
    if expert.number in layer.non_finite:
        found.append("not finite")
    if expert.number in (layer.dead or ()):
        found.append("dead")
    if group := layer.copies_of(expert.number):
        found.append(f"copy of {next(e for e in group.experts if e != expert.number)}")
    if found:
        return Cell(", ".join(found), ", ".join(found), "dead")
    if layer.dead is None:  # too few slots, or undefined routing
        return text(None if layer.load[expert.number] is None else "not judged")
    return text("at work")


def _experts(report: Report) -> list[_Expert]:
    return [
        _Expert(layer, number) for layer in report.main.layers for number in range(layer.experts)
    ]


def _nth(values: list[float | None], expert: _Expert) -> float | None:
    """An expert's value in a list that earlier versions lack."""
    return values[expert.number] if values else None
