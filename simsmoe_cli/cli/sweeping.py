"""The common part of `simsmoe sweep` and `simsmoe reproduce`: shows the plan, asks, trains, and
shows the table."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simsmoe_cli.cli.options import console
from simsmoe_cli.errors import UserError, counted, listed
from simsmoe_cli.run.duration import duration

if TYPE_CHECKING:
    from rich.console import Console

    from simsmoe_cli.sweep.definition import Definition
    from simsmoe_cli.sweep.results import Record
    from simsmoe_cli.sweep.run import Part, Sweep, Training
    from simsmoe_cli.sweep.side_by_side import Outcome

JobsOption = Annotated[
    int,
    typer.Option(
        "--jobs",
        min=1,
        max=1_000,
        metavar="N",
        help="Trainings side by side: threads are divided; each has a GPU of its own where there "
        "are several.",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Show the plan and ask nothing.")]
PlanOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan; train nothing.")]
KeepWeightsOption = Annotated[
    bool,
    typer.Option(
        "--keep-weights",
        help="Keep the checkpoints of finished trainings; without it they are deleted when they "
        "have been measured.",
    ),
]
ResultsOption = Annotated[
    Path | None,
    typer.Option(
        "--results",
        metavar="FOLDER",
        help="Folder of results.json, results.csv and results.html; the sweep's if left out. A "
        "sweep goes on from a results.json that lies there, without the runs.",
    ),
]


ReuseOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="results.json of another sweep, or its folder; its finished trainings count here too. "
        "Repeatable.",
    ),
]


@dataclass(frozen=True)
class Options:
    """Options of both commands, as given."""

    name: str
    jobs: int
    yes: bool
    dry_run: bool
    keep_weights: bool
    results: Path | None
    reuse: list[Path] | None
    device: str
    data_dir: Path
    runs_dir: Path


def check_options(options: Options) -> Path:
    """The folder of the results, once it and the device are checked.

    Raises:
        UserError: there is no such device, or results cannot be written.
    """
    from simsmoe_cli.sweep.folder import require_writable, results_folder
    from simsmoe_cli.train.device import choose_device

    choose_device(options.device)
    if options.results is None:
        return options.runs_dir / options.name
    folder = results_folder(options.results)
    require_writable(folder)
    return folder


def sweep_through(definition: Definition, options: Options) -> None:
    """Carry out a sweep, or the rest of it, and write its results.

    Raises:
        UserError: it cannot be carried out; trainings that fail only end with exit code 1.
        typer.Exit: some trainings failed.
    """
    from simsmoe_cli.sweep import run
    from simsmoe_cli.sweep.folder import RESULTS, mark, results_file
    from simsmoe_cli.sweep.reports import due_reports, keeps_weights
    from simsmoe_cli.sweep.show import print_table, write_results
    from simsmoe_cli.sweep.side_by_side import outcomes
    from simsmoe_cli.sweep.table import make_table
    from simsmoe_cli.sweep.timing import estimate_seconds, machines

    screen = console()
    folder = options.runs_dir / options.name
    results = check_options(options) / RESULTS
    with run.locked(folder):
        sweep = run.open_sweep(
            definition,
            folder,
            options.data_dir,
            results,
            lambda words: screen.print(words, soft_wrap=True),
            [results_file(path) for path in options.reuse or ()],
        )
        _show_plan(sweep, screen, results)
        failed: dict[str, str] = {}
        due = len(sweep.due)
        at = machines(options.device, min(options.jobs, max(1, due)))
        if due:
            show_time(estimate_seconds(sweep.due, folder, at), len(at), screen)
        if options.dry_run:
            return
        if due:
            ask(yes=options.yes)
        sweep.results.write()
        mark(folder, results)
        if due:
            progress = _Progress(sweep, len(at), screen)
            try:
                failed = run.carry_out(
                    sweep,
                    at,
                    keep_weights=options.keep_weights,
                    needed_later=lambda one: keeps_weights(sweep, one),
                    on_end=progress.ended,
                )
            finally:
                if sweep.results.records:
                    table = make_table(definition, sweep.results)
                    write_results(table, results.parent, failed)
        works, without_weights = due_reports(sweep, results.parent)
        with contextlib.closing(outcomes(list(works.values()), at[:1])) as ended:
            for name, outcome in zip(works, ended, strict=True):
                if outcome.value is None:
                    failed[name] = outcome.failure
        table = make_table(definition, sweep.results)
        write_results(table, results.parent, failed)
    screen.print()
    print_table(table, screen)
    pages = [results.parent / "results.html", *sorted(results.parent.glob("report-*/report.html"))]
    screen.print("", *pages, sep="\n", soft_wrap=True)
    if without_weights:
        screen.print(
            f"No collapse report of {listed(without_weights, 5)}: it needs the weights of the cell "
            f"and of its baseline, which are not in {folder}.",
            soft_wrap=True,
        )
    if failed:
        logs = folder / run.LOGS
        screen.print(
            f"{len(failed)} did not finish; the same command tries again. What they printed is in "
            f"{logs}:",
            *(f"  {name}: {reason}" for name, reason in failed.items()),
            sep="\n",
            soft_wrap=True,
        )
        raise typer.Exit(1)


def _show_plan(sweep: Sweep, screen: Console, results: Path) -> None:
    """The number of trainings, tokens and FLOPs, of all and of those that are due."""
    definition, due = sweep.definition, sweep.due
    begun = sum(one.begun for one in due)
    go_on = f"; of {counted(begun, 'interrupted training')} what is left" if begun else ""
    seeds = Counter(len(cell.seeds) for cell in sweep.cells)
    of_seeds = ", ".join(
        f"{cells} with {counted(count, 'seed')}" for count, cells in sorted(seeds.items())
    )
    lines = [
        f"sweep      {definition.name} in {sweep.folder}",
        f"cells      {len(sweep.cells)}: {of_seeds}",
        f"trainings  {len(sweep.trainings)}, of which {len(sweep.trainings) - len(due)} are in "
        f"{results}",
        f"due        {len(due)}: {_amount([part for one in due for part in one.parts])}{go_on}",
    ]
    if definition.finetune and due:
        tasks = listed([task.task for task in definition.finetune])
        tunings = [part for one in due for part in one.parts[1:]]
        lines.append(f"           of these, fine-tuning on {tasks}: {_amount(tunings)}")
    screen.print(*lines, sep="\n", soft_wrap=True)


def _amount(parts: list[Part]) -> str:
    """Tokens and FLOPs that are left of parts of trainings."""
    tokens = sum(round(part.cost.tokens * part.share_due) for part in parts)
    flops = sum(part.cost.flops * part.share_due for part in parts)
    return f"{tokens:,} tokens, {flops:.3g} FLOPs"


def show_time(seconds: float, jobs: int, screen: Console) -> None:
    """The line of a plan that says how long it takes."""
    side_by_side = f" with {jobs} side by side" if jobs > 1 else ""
    screen.print(
        f"time       about {duration(seconds)} of training{side_by_side}, from a few steps; "
        "evaluation comes on top",
        soft_wrap=True,
    )


def ask(question: str = "Train them now?", *, yes: bool) -> None:
    """Ask whether to go on, unless it was said already.

    Raises:
        UserError: nobody can be asked.
        typer.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError("nobody can be asked here", hint="Start it with --yes.")
    typer.confirm(question, abort=True)


class _Progress:
    """A line for each training that ends."""

    def __init__(self, sweep: Sweep, jobs: int, screen: Console):
        due = sweep.due
        self.total, self.jobs, self.screen = len(due), jobs, screen
        self.flops = sum(one.flops_due for one in due)
        self.started, self.count = time.monotonic(), 0
        self.ended_flops = self.ended_seconds = 0.0

    def ended(self, training: Training, record: Record | None, outcome: Outcome) -> None:
        """A training finished or failed."""
        self.count += 1
        if record is not None:
            self.ended_flops += training.flops_due
            self.ended_seconds += outcome.seconds
        else:
            self.flops -= training.flops_due
        at = f"[{self.count}/{self.total}] {training.job.name}"
        words = f"failed: {outcome.failure}" if record is None else _scores(record)
        self.screen.print(f"{at}  {words}{self._left()}", soft_wrap=True)

    def _left(self) -> str:
        """The time that is left, from that of the trainings which finished; "" if not known."""
        if self.count == self.total or not self.ended_flops:
            return ""
        all_seconds = self.ended_seconds / self.ended_flops * self.flops / self.jobs
        left = all_seconds - (time.monotonic() - self.started)
        return f", {duration(left)} left" if left > 0 else ""


def _scores(record: Record) -> str:
    from simsmoe_cli.sweep.table import BPC, CKA, CKA_SHARED

    return "  ".join(
        f"{score.label} {value:{score.form}}"
        for score in (BPC, CKA, CKA_SHARED)
        if (value := record.scores.get(score.name)) is not None
    )
