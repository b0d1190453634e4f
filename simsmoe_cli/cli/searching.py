"""What `simsmoe sweep --search` does: shows the plan, asks, trains, and shows the best trials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from simsmoe_cli.cli.options import console
from simsmoe_cli.cli.sweeping import ask, show_time

if TYPE_CHECKING:
    from rich.console import Console

    from simsmoe_cli.sweep.definition import Definition
    from simsmoe_cli.sweep.ranges import Range
    from simsmoe_cli.sweep.search import Search
    from simsmoe_cli.sweep.study import Trial

MOST_TRIALS = 10  # that are shown


def search_through(
    definition: Definition,
    ranges: Mapping[str, Range],
    count: int,
    jobs: int,
    *,
    yes: bool,
    dry_run: bool,
    device: str,
    data_dir: Path,
    runs_dir: Path,
) -> None:
    """Search settings, and print the best trials.

    Raises:
        UserError: the search cannot be carried out, or all of its trials failed.
        typer.Exit: some trials failed.
    """
    from simsmoe_cli.sweep import run
    from simsmoe_cli.sweep.folder import STUDY
    from simsmoe_cli.sweep.search import LOG, carry_out_search, open_search
    from simsmoe_cli.sweep.study import existing_study, trials
    from simsmoe_cli.sweep.timing import estimate_seconds, machines
    from simsmoe_cli.sweep.trials_text import VALIDATION, trials_for_terminal
    from simsmoe_cli.train.device import choose_device

    screen = console()
    folder = runs_dir / definition.name

    def ended(trial: Trial) -> None:
        bpc = "" if trial.valid_bpc is None else f"  {VALIDATION} {trial.valid_bpc:.4f}"
        given_up = "" if trial.state == "complete" else "  given up"
        values = "  ".join(f"{field}={value:.4g}" for field, value in trial.settings.items())
        screen.print(f"trial {trial.number}  {values}{bpc}{given_up}", soft_wrap=True)

    failures: list[str] = []

    def failed(reason: str) -> None:
        failures.append(reason)
        screen.print(f"a trial failed: {reason}", soft_wrap=True)

    choose_device(device)
    with run.locked(folder):
        search = open_search(
            definition,
            ranges,
            count,
            folder,
            data_dir,
            lambda words: screen.print(words, soft_wrap=True),
        )
        _show_plan(search, screen)
        at = machines(device, min(jobs, max(1, len(search.due))))
        if search.due:
            show_time(estimate_seconds(search.due, folder, at), len(at), screen)
        if dry_run:
            return
        if search.due:
            ask(yes=yes)
            found = carry_out_search(search, at, ended, failed)
        else:
            study = existing_study(folder)
            assert study is not None
            found = trials(study)
    screen.print()
    screen.print(trials_for_terminal(found[:MOST_TRIALS], list(ranges)))
    screen.print(
        f"\n{folder / STUDY}",
        "One training each, so small differences mean nothing: compare the best values with "
        "several seeds by simsmoe sweep --grid.",
        sep="\n",
        soft_wrap=True,
    )
    if failures:
        screen.print(
            f"{len(failures)} failed; the same command tries as many again. What they printed is "
            f"in {folder / run.LOGS / LOG}.",
            soft_wrap=True,
        )
        raise typer.Exit(1)


def _show_plan(search: Search, screen: Console) -> None:
    """The number of trainings, their tokens and FLOPs, at most."""
    due = search.due
    tokens, flops = (sum(getattr(one.cost, name) for one in due) for name in ("tokens", "flops"))
    fields = ", ".join(
        f"{field} {one.low:.4g} to {one.high:.4g}" for field, one in search.ranges.items()
    )
    screen.print(
        f"search     {search.definition.name} in {search.folder}",
        f"ranges     {fields}",
        f"trainings  {search.count}, of which {search.finished} have finished",
        f"due        {len(due)}: at most {tokens:,} tokens, {flops:.3g} FLOPs; those that are "
        "given up take less",
        sep="\n",
        soft_wrap=True,
    )
