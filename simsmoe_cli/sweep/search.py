"""Searches numeric settings with optuna: each trial is one training, judged by its validation.

A search goes on after an interruption (`study.py`), and optuna's own tools read its study. Trials
are chosen by TPE (Bergstra et al. 2011) and given up at a validation that is worse than the median
of earlier trials at the same step.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsmoe_cli.errors import UserError
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.sweep.cells import Cell, cells_of, recipe_of
from simsmoe_cli.sweep.costs import cost_of
from simsmoe_cli.sweep.definition import Definition
from simsmoe_cli.sweep.ranges import Range
from simsmoe_cli.sweep.run import LOGS, Part, Training
from simsmoe_cli.sweep.side_by_side import Work, outcomes
from simsmoe_cli.sweep.study import (
    FAILED,
    REASON,
    Trial,
    begin,
    existing_study,
    open_study,
    require_same,
    trials,
)
from simsmoe_cli.sweep.training import Job, Machine, remove_weights
from simsmoe_cli.train import session
from simsmoe_cli.train.plan_pretraining import plan_training

LOG = "trials.log"


@dataclass(frozen=True)
class Search:
    """A search in its folder.

    Attributes:
        definition: its recipe and settings, with the first of its seeds.
        ranges: of the fields to search.
        count: trials in all that complete or are given up.
        folder: of its runs and its study.
        data_dir: of prepared corpora.
        finished: trials of an earlier, interrupted search that count.
        due: the trainings that are left, each as expensive as one at the costlier ends of the
            ranges.
    """

    definition: Definition
    ranges: Mapping[str, Range]
    count: int
    folder: Path
    data_dir: Path
    finished: int
    due: list[Training]


def open_search(
    definition: Definition,
    ranges: Mapping[str, Range],
    count: int,
    folder: Path,
    data_dir: Path,
    say: Callable[[str], None],
) -> Search:
    """Check a search, prepare its text if that needs no choice, and see what is left of it.

    Args:
        definition, ranges, count, folder, data_dir: as of `Search`.
        say: told what is prepared.

    Raises:
        UserError: the folder has another search, a range is not valid, or the corpus is not
            prepared.
    """
    cells_of(definition)
    study, finished = existing_study(folder), 0
    if study is not None:
        require_same(study, definition, ranges, folder)
        finished = sum(one.counts for one in trials(study))
    seed = definition.seeds[0]
    ends = []
    for values in zip(*((one.low, one.high) for one in ranges.values()), strict=True):
        cell = Cell(dict(zip(ranges, values, strict=True)), [seed])
        ends.append((cell, recipe_of(definition, cell, seed)))
    vocab_size = session.open_store(ends[0][1], data_dir, say).manifest.vocab_size
    trainings = []
    for cell, recipe in ends:
        overrides, cost = tuple(cell.overrides(definition, seed)), cost_of(recipe, vocab_size)
        job = Job("trial", cell.recipe(definition), overrides, folder, data_dir, cost)
        trainings.append(Training(job, recipe, (Part(cost),)))
    costliest = max(trainings, key=lambda one: one.cost.flops)
    due = [costliest] * max(0, count - finished)
    return Search(definition, ranges, count, folder, data_dir, finished, due)


def carry_out_search(
    search: Search,
    at: Sequence[Machine],
    on_end: Callable[[Trial], None],
    on_failure: Callable[[str], None],
) -> list[Trial]:
    """Train the trials that are due.

    Args:
        search: its folder is locked by the caller.
        at: one for each training at a time.
        on_end: told each trial that has ended.
        on_failure: told why a trial failed.

    Returns:
        All trials, the best first.

    Raises:
        UserError: every trial failed.
    """
    from optuna.trial import TrialState

    folder, log = search.folder, search.folder / LOGS / LOG
    study = open_study(folder)
    begin(study, search.definition, search.ranges, search.count)
    for stale in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(stale.number, state=TrialState.FAIL)
        study.enqueue_trial(stale.params)
    given = (search.definition, dict(search.ranges), folder, search.data_dir)
    works = [Work(_try, given, log) for _ in search.due]
    failures = []
    with contextlib.closing(outcomes(works, at)) as ended:
        for outcome in ended:
            if isinstance(outcome.value, int):
                on_end(next(one for one in trials(study) if one.number == outcome.value))
            elif outcome.failure:
                failures.append(outcome.failure)
                on_failure(outcome.failure)
    study.set_user_attr(FAILED, len(failures))
    if failures and len(failures) == len(works):
        raise UserError(f"every trial failed: {failures[0]}", hint=f"See {log}.")
    return trials(study)


class _Pruned(Exception):
    """The training is given up."""


def _try(
    definition: Definition,
    ranges: Mapping[str, Range],
    folder: Path,
    data_dir: Path,
    machine: Machine,
) -> int:
    """Train the study's next trial, in a process of its own; its number."""
    from optuna.trial import TrialState

    study = open_study(folder)
    trial = study.ask()
    settings = {field: values.draw(trial, field) for field, values in ranges.items()}
    seed = definition.seeds[0]
    cell = Cell(settings, [seed])
    name = f"trial{trial.number}"
    best = math.inf

    def judge(event: Mapping[str, Any]) -> None:
        nonlocal best
        if event["kind"] != "eval" or event.get("split") != "valid":
            return
        bpc = event.get("bpc") or event["loss_nats"] / math.log(2)
        best = min(best, bpc)
        trial.report(best, event["step"])
        if trial.should_prune():
            raise _Pruned(f"given up at step {event['step']}: worse than the median")

    run = RunDir(folder / name)
    shutil.rmtree(run.path, ignore_errors=True)
    device = machine.ready()
    recipe = cell.recipe(definition)
    plan = plan_training(recipe, cell.overrides(definition, seed), folder, name)
    store = session.open_corpus(plan, data_dir)
    try:
        session.train(plan, store, device, subscriber=judge)
    except _Pruned:
        study.tell(trial, state=TrialState.PRUNED)
    except UserError as error:
        trial.set_user_attr(REASON, str(error).splitlines()[0])
        study.tell(trial, state=TrialState.FAIL)
        raise
    else:
        study.tell(trial, best)
    remove_weights(run)
    return trial.number
