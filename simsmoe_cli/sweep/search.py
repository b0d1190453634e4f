"""Searches numeric settings with optuna: each trial is one training, judged by its validation.

The study is a SQLite file in the sweep's folder, so a search goes on after an interruption, and
optuna's own tools read it. Trials are chosen by TPE (Bergstra et al. 2011) and given up at a
validation that is worse than the median of earlier trials at the same step.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simsmoe_cli.errors import UserError, printable
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.sweep.cells import Cell, recipe_of
from simsmoe_cli.sweep.definition import Definition
from simsmoe_cli.sweep.run import LOGS
from simsmoe_cli.sweep.side_by_side import Work, outcomes
from simsmoe_cli.sweep.training import Machine, remove_weights
from simsmoe_cli.train import session
from simsmoe_cli.train.plan_pretraining import plan_training

if TYPE_CHECKING:
    import optuna

STUDY = "study.db"
SEARCHED = "searched"  # attribute of a study: recipe, settings, seed and ranges
UNPRUNED = 5  # trials that are trained to their end before any is given up
LARGE_RATIO = 10.0  # of the ends of a range, from which values are drawn by their logarithm


@dataclass(frozen=True)
class Range:
    """The values of a field: whole numbers if both ends are."""

    low: float
    high: float

    @property
    def logarithmic(self) -> bool:
        return self.low > 0 and self.high / self.low >= LARGE_RATIO

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def of_type(self, kind: str, field: str) -> Range:
        """The range of a field of this type, in words as `recipe.fields` has them.

        Raises:
            UserError: it takes whole numbers, and an end is not one.
        """
        if not kind.startswith("whole number"):
            return Range(float(self.low), float(self.high))
        if not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise UserError("takes whole numbers", where=f"--grid {printable(field)}")
        return Range(int(self.low), int(self.high))

    def draw(self, trial: optuna.Trial, field: str) -> float:
        """The trial's value of the field."""
        if self.whole:
            return trial.suggest_int(field, int(self.low), int(self.high), log=self.logarithmic)
        return trial.suggest_float(field, self.low, self.high, log=self.logarithmic)


@dataclass(frozen=True)
class Trial:
    """A trial of a study.

    Attributes:
        number: from 0.
        state: "complete", "pruned" or "fail".
        valid_bpc: its best validation; None if there was none.
        settings: its values by field.
    """

    number: int
    state: str
    valid_bpc: float | None
    settings: dict[str, Any]


class _Pruned(Exception):
    """The training is given up."""


def open_study(folder: Path) -> optuna.Study:
    """The study in a sweep's folder, made if need be.

    Raises:
        UserError: optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            "a search needs optuna", hint="Install it: python -m pip install 'simsmoe[sweep]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        study_name="simsmoe",
        storage=f"sqlite:///{(folder / STUDY).resolve()}",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED),
        load_if_exists=True,
    )


def trials(study: optuna.Study) -> list[Trial]:
    """All trials that have ended, the best first."""
    found = [
        Trial(
            one.number,
            one.state.name.lower(),
            min(one.intermediate_values.values(), default=None),
            dict(one.params),
        )
        for one in study.get_trials(deepcopy=False)
        if one.state.is_finished()
    ]
    return sorted(found, key=lambda one: (one.state != "complete", one.valid_bpc or math.inf))


def search(
    definition: Definition,
    ranges: Mapping[str, Range],
    count: int,
    folder: Path,
    data_dir: Path,
    at: Sequence[Machine],
    on_end: Callable[[Trial], None],
    on_failure: Callable[[str], None],
) -> list[Trial]:
    """Train until a study has `count` trials; those of an earlier, interrupted search count.

    Args:
        definition: its recipe and settings, with the first of its seeds.
        ranges: of the fields to search.
        count: trials in all that complete or are given up.
        folder: of the sweep.
        data_dir: of prepared corpora.
        at: one for each training at a time.
        on_end: told each trial that has ended.
        on_failure: told why a trial failed.

    Returns:
        All trials, the best first.

    Raises:
        UserError: the folder has another search, a range is not valid, or every trial failed.
    """
    from optuna.trial import TrialState

    study = open_study(folder)
    _require_same(study, definition, ranges, folder)
    for stale in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(stale.number, state=TrialState.FAIL)
        study.enqueue_trial(stale.params)
    seed = definition.seeds[0]
    for ends in zip(*((one.low, one.high) for one in ranges.values()), strict=True):
        recipe_of(definition, Cell(dict(zip(ranges, ends, strict=True)), [seed]), seed)
    done = [one for one in trials(study) if one.state != "fail"]
    works = [
        Work(_try, (definition, dict(ranges), folder, data_dir), folder / LOGS / "trials.log")
        for _ in range(max(0, count - len(done)))
    ]
    failures = []
    with contextlib.closing(outcomes(works, at)) as ended:
        for outcome in ended:
            if isinstance(outcome.value, int):
                on_end(next(one for one in trials(study) if one.number == outcome.value))
            elif outcome.failure:
                failures.append(outcome.failure)
                on_failure(outcome.failure)
    if failures and len(failures) == len(works):
        raise UserError(
            f"every trial failed: {failures[0]}", hint=f"See {folder / LOGS / 'trials.log'}."
        )
    return trials(study)


def _require_same(
    study: optuna.Study, definition: Definition, ranges: Mapping[str, Range], folder: Path
) -> None:
    """Note in a new study what is searched; a UserError if an earlier one searched other things."""
    wanted = {
        "recipe": definition.recipe,
        "settings": definition.settings,
        "seed": definition.seeds[0],
        "ranges": {field: [one.low, one.high] for field, one in ranges.items()},
    }
    known = study.user_attrs.get(SEARCHED)
    if known is None:
        study.set_user_attr(SEARCHED, wanted)
    elif known != wanted:
        other = " and ".join(name for name in wanted if wanted[name] != known.get(name))
        raise UserError(
            f"the search in this folder is not this one: it differs in {other}",
            where=printable(folder, 200),
            hint="Choose another --name.",
        )


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
    except UserError:
        study.tell(trial, state=TrialState.FAIL)
        raise
    else:
        study.tell(trial, best)
    remove_weights(run)
    return trial.number


def parse_range(text: str) -> Range | None:
    """The range of "0.001..0.1" or "2..8"; None if the text is not one.

    Raises:
        UserError: its ends are in the wrong order.
    """
    low, dots, high = text.partition("..")
    if not dots:
        return None
    try:
        ends = [
            int(end) if end.strip().lstrip("-").isdigit() else float(end) for end in (low, high)
        ]
    except ValueError:
        return None
    if not all(map(math.isfinite, ends)) or not ends[0] < ends[1]:
        raise UserError(
            "expected a range such as 0.001..0.1, the lower end first", where=printable(text)
        )
    return Range(*ends)
