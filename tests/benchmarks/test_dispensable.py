"""The table of what experts are worth says what the reports hold."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.dispensable import rows, table
from simsmoe_cli.collapse.ablation import Ablation, Change, LeftOut, MeanCost
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.errors import UserError
from tests.collapse.reports import report


def change(nats: float) -> Change:
    return Change(nats=nats, low=nats - 0.001, high=nats + 0.001, in_unit=nats)


def with_ablation(name: str, costs: list[float]) -> Report:
    made = report(name)
    mean = MeanCost(pairs=2, hand_over=change(0.03), merged=None, mean_output=change(0.02))
    ablation = Ablation(
        tokens=640,
        windows=10,
        predictions=640,
        loss_nats=2.0,
        unit="bpc",
        in_unit=2.9,
        level=0.95,
        resamples=100,
        left_out=[
            LeftOut(layer=0, expert=expert, tokens=9, change=change(cost))
            for expert, cost in enumerate(costs)
        ],
        mean_left_out=change(sum(costs) / len(costs)),
        similar=mean,
    )
    main = made.main.model_copy(update={"ablation": ablation})
    return made.model_copy(update={"findings": [main]})


def test_runs_are_side_by_side_with_intervals() -> None:
    shown = io.StringIO()
    reports = [with_ablation("plain", [0.001, 0.2]), with_ablation("similar", [0.3, 0.02])]
    Console(file=shown, width=160).print(table([(r.main.subject.name, r) for r in reports]))
    lines = {" ".join(line.split()) for line in shown.getvalue().splitlines()}
    assert "plain similar" in lines
    assert "one expert left out, mean 0.1005 (0.0995 to 0.1015) 0.1600 (0.1590 to 0.1610)" in lines
    assert "the cheapest expert 0.0010 (0.0000 to 0.0020) 0.0200 (0.0190 to 0.0210)" in lines
    assert "experts surely below 0.01 1 of 2 0 of 2" in lines
    assert "similar pairs: weights merged – –" in lines


def test_an_expert_whose_cost_is_undefined_is_not_surely_cheap() -> None:
    made = with_ablation("plain", [0.001, 0.2])
    measured = made.main.ablation
    assert measured is not None
    silent = measured.left_out[1].model_copy(update={"change": Change(nats=None)})
    half = measured.model_copy(update={"left_out": [measured.left_out[0], silent]})
    assert ("experts surely below 0.01", "1 of 2") in rows(made.main, half)


def test_a_report_without_it_is_named() -> None:
    with pytest.raises(UserError, match="it was not asked for"):
        table([("old.json", report())])
