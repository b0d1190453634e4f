"""What experts are worth in several runs, side by side, from the JSON of their reports.

    python -m benchmarks.dispensable plain/report/report.json sim/report/report.json

For each run: the mean similarity, what leaving one expert out costs (the mean over experts, the
cheapest one, and how many cost less than a small loss), and what merging a pair costs, for similar
and for random pairs. Costs are nats per prediction with their intervals: a paired bootstrap over
the held-out windows, so they say nothing about other seeds.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

from simsmoe_cli.collapse.ablation import Ablation, Change
from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.errors import UserError

SMALL_NATS = 0.01  # an expert whose absence surely costs less is one that could be done without


def rows(findings: Findings, ablation: Ablation) -> list[tuple[str, str]]:
    """What is said of one run: names and values."""
    costs = [one.change.nats for one in ablation.left_out if one.change.nats is not None]
    highs = [one.change.high for one in ablation.left_out]
    small = [high for high in highs if high is not None and high < SMALL_NATS]
    cheapest = ablation.cheapest
    shared = findings.overall.cka_shared.value
    found = [
        ("step", str(findings.subject.step)),
        ("mean CKA", _number(findings.overall.cka_mean)),
        ("mean CKA on shared tokens", _number(shared)),
        ("loss, nats", f"{ablation.loss_nats:.4f}"),
        (f"score, {ablation.unit}", _number(ablation.in_unit)),
        ("windows; predictions", f"{ablation.windows:,}; {ablation.predictions:,}"),
        ("one expert left out, mean", _change(ablation.mean_left_out)),
        ("one expert left out, median", _number(statistics.median(costs) if costs else None)),
        ("the cheapest expert", _change(cheapest.change if cheapest else None)),
        (f"experts surely below {SMALL_NATS}", f"{len(small)} of {len(ablation.left_out)}"),
    ]
    for name, mean in (
        ("similar pairs", ablation.similar),
        ("random pairs", ablation.random),
        ("similar minus random", ablation.similar_minus_random),
    ):
        if mean is not None:
            found += [
                (f"{name}: one takes the other's tokens", _change(mean.hand_over)),
                (f"{name}: weights merged", _change(mean.merged)),
                (f"{name}: mean of outputs", _change(mean.mean_output)),
            ]
    return found


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _change(change: Change | None) -> str:
    if change is None or change.nats is None:
        return "–"
    low, high = _number(change.low), _number(change.high)
    return f"{change.nats:.4f} ({low} to {high})"


def table(reports: list[tuple[str, Report]]) -> Table:
    """The runs side by side.

    Raises:
        UserError: a report holds no ablation.
    """
    shown = Table(box=None)
    shown.add_column("")
    columns = []
    for name, report in reports:
        if report.main.ablation is None:
            why = report.main.ablation_refused or "it was not asked for"
            raise UserError(
                f"nothing was left out in this report: {why}",
                where=name,
                hint="Write it again without --no-ablation.",
            )
        shown.add_column(report.main.subject.name)
        columns.append(dict(rows(report.main, report.main.ablation)))
    for name in dict.fromkeys(name for column in columns for name in column):
        shown.add_row(name, *(column.get(name, "–") for column in columns))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("reports", nargs="+", type=Path, help="report.json of each run")
    paths = parser.parse_args().reports
    try:
        Console(width=160).print(table([(str(path), Report.read(path)) for path in paths]))
    except UserError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
