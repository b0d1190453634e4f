"""Carries out a sweep: which trainings are due, what they cost, and their results."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.tasks.store import open_task
from simsmoe_cli.errors import DataError, UserError, printable
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.checkpoint import list_checkpoints
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.sweep.cells import Cell, cells_of, recipe_of
from simsmoe_cli.sweep.costs import Costs
from simsmoe_cli.sweep.definition import Definition
from simsmoe_cli.sweep.folder import Failures, note_failed
from simsmoe_cli.sweep.results import (
    ACCURACY,
    Cost,
    Record,
    Results,
    Text,
    compared,
    settings_of,
)
from simsmoe_cli.sweep.reuse import take_over
from simsmoe_cli.sweep.side_by_side import Outcome, Work, outcomes
from simsmoe_cli.sweep.training import (
    Job,
    Machine,
    remove_weights,
    train_and_measure,
)
from simsmoe_cli.train import session

LOGS, LOCK = "logs", ".sweep.lock"


@dataclass(frozen=True)
class Part:
    """The pre-training of a training, or one of the fine-tunings that follow it.

    Attributes:
        cost: of all its steps.
        trained: steps that its run has from an earlier, interrupted sweep.
    """

    cost: Cost
    trained: int = 0

    @property
    def share_due(self) -> float:
        """The share of its steps that are left, between 0 and 1."""
        return max(0.0, 1 - self.trained / self.cost.steps)


@dataclass(frozen=True)
class Training:
    """A training of a sweep; several cells may share it.

    Attributes:
        job: what to do.
        recipe: resolved.
        parts: the pre-training, then a fine-tuning for each task.
    """

    job: Job
    recipe: Recipe
    parts: tuple[Part, ...]

    @property
    def cost(self) -> Cost:
        """Of the pre-training."""
        return self.job.cost

    @property
    def begun(self) -> bool:
        """Whether an earlier, interrupted sweep trained a part of it."""
        return any(part.trained for part in self.parts)

    @property
    def flops_due(self) -> float:
        """FLOPs of the steps that are left."""
        return sum(part.cost.flops * part.share_due for part in self.parts)


@dataclass
class Sweep:
    """A sweep in its folder.

    Attributes:
        definition: what to train.
        folder: of its runs.
        data_dir: of prepared corpora and tasks.
        results: of finished trainings.
        cells: of the definition.
        trainings: all, each once, in the order of the cells and their seeds: first all cells with
            their first seed.
    """

    definition: Definition
    folder: Path
    data_dir: Path
    results: Results
    cells: list[Cell]
    trainings: list[Training] = field(default_factory=list)

    @property
    def due(self) -> list[Training]:
        """Trainings that have not finished."""
        return [one for one in self.trainings if not self.measured(self.results, one.recipe)]

    def measured(self, results: Results, recipe: Recipe) -> Record | None:
        """The record of a training, if it has all that this sweep measures."""
        record = results.find(recipe)
        tasks = [f"{ACCURACY}{task.task}" for task in self.definition.finetune]
        return record if record and all(name in record.scores for name in tasks) else None


def open_sweep(
    definition: Definition,
    folder: Path,
    data_dir: Path,
    results: Path,
    say: Callable[[str], None],
    reuse: Sequence[Path] = (),
) -> Sweep:
    """Check a sweep, prepare its text if that needs no choice, and read its finished trainings.

    Args:
        definition: what to train.
        folder: of its runs.
        data_dir: of prepared corpora and tasks.
        results: the file of its results.
        say: told what is prepared, and how many trainings of other sweeps fit.
        reuse: results of other sweeps, whose finished trainings count too.

    Raises:
        UserError: a recipe or a result cannot be used, or a corpus or a task is not prepared.
    """
    cells = cells_of(definition)
    for task in definition.finetune:
        open_task(task.task, data_dir)
    others = [Results.existing(path) for path in reuse]
    found = Results.read(results)
    found.definition = definition
    sweep = Sweep(definition, folder, data_dir, found, cells)
    costs = Costs(definition, cells, data_dir)
    known: dict[str, str] = {}  # names of runs by what identifies their recipe
    most = max(len(cell.seeds) for cell in cells)
    for turn in range(most):
        for cell in cells:
            if turn >= len(cell.seeds):
                continue
            seed = cell.seeds[turn]
            recipe = recipe_of(definition, cell, seed)
            corpus = recipe.data.corpus
            if corpus not in costs.stores:
                costs.stores[corpus] = session.open_store(recipe, data_dir, say)
                _require_same_text(found, corpus, costs.stores[corpus])
            overrides = cell.overrides(definition, seed)
            if cell.same_flops:
                overrides.append(costs.same_flops(cell, seed))
                recipe = load_recipe(cell.recipe(definition), overrides)
            identity = repr(sorted(compared(settings_of(recipe)).items()))
            if identity in known:
                continue
            name = _free_name(folder, f"{cell.name}-seed{seed}", recipe)
            if name in known.values():
                raise UserError(
                    f"two cells have the name {name}", where="grids", hint="Change one of them."
                )
            known[identity] = name
            cost, tunings = costs.of(recipe)
            tasks = tuple(definition.finetune)
            job = Job(
                name, cell.recipe(definition), tuple(overrides), folder, data_dir, cost, tasks
            )
            runs = [job.run, *map(job.tuned, tasks)]
            parts = tuple(
                Part(one, _last_step(run)) for one, run in zip([cost, *tunings], runs, strict=True)
            )
            sweep.trainings.append(Training(job, recipe, parts))
    for other in others:
        say(take_over(sweep, other))
    return sweep


def _free_name(folder: Path, name: str, recipe: Recipe) -> str:
    """The name of a training's run folder: one that no run with other settings has."""
    wanted = compared(settings_of(recipe))

    def taken(candidate: str) -> bool:
        file = RunDir(folder / candidate).recipe
        if not file.is_file():
            return False
        try:
            return compared(settings_of(load_recipe(str(file)))) != wanted
        except UserError:  # resuming it says what is wrong
            return False

    candidates = (f"{name}-run{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], candidates) if not taken(one))


def _last_step(run: RunDir) -> int:
    """The step from which an interrupted run would go on; 0 if there is none."""
    steps = [step for step, _ in list_checkpoints(run)]
    return steps[-1] if steps else 0


def _require_same_text(results: Results, name: str, store: TokenStore) -> None:
    """Note the text of a corpus; a UserError if finished trainings read another one."""
    manifest = store.manifest
    text = Text(
        fingerprint=manifest.fingerprint,
        train_tokens=manifest.splits["train"].tokens,
        test_tokens=manifest.splits["test"].tokens,
        unit=manifest.unit,
    )
    before = results.corpora.get(name)
    if results.records and before is not None and before.fingerprint != text.fingerprint:
        raise DataError(
            f"corpus {printable(name)} is not the text that the finished trainings read "
            f"({before.train_tokens:,} training tokens then, {text.train_tokens:,} now)",
            where=str(results.path),
            hint="Prepare the same text under this name, or start anew with another --results.",
        )
    results.corpora[name] = text


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the sweep's folder; a UserError if another process works in it.

    A new folder to which nothing was written is removed again, with the new folders around it.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            "another process works on this sweep",
            where=str(folder),
            hint="Wait for it, or stop it.",
        ) from None
    try:
        yield
    finally:
        if new and [path.name for path in folder.iterdir()] == [LOCK]:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # others may have put something there
                for path in new[1:]:
                    path.rmdir()
        lock.release()


def carry_out(
    sweep: Sweep,
    at: Sequence[Machine],
    *,
    keep_weights: bool,
    needed_later: Callable[[Training], bool],
    on_end: Callable[[Training, Record | None, Outcome], None],
) -> dict[str, str]:
    """Do all due trainings; the results are written after each.

    Args:
        sweep: its folder is locked by the caller.
        at: one for each training at a time.
        keep_weights: whether the checkpoints of finished trainings stay.
        needed_later: whether those of a pre-training stay all the same.
        on_end: told each training, its record, and how its process ended.

    Returns:
        Why trainings failed, by name.
    """
    due, failed = sweep.due, {}
    works = [
        Work(train_and_measure, (one.job,), sweep.folder / LOGS / f"{one.job.name}.log")
        for one in due
    ]
    note_failed(sweep.folder, Failures({}))
    with contextlib.closing(outcomes(works, at)) as ended:
        for left, outcome in zip(reversed(range(len(works))), ended, strict=True):
            training = due[outcome.number]
            record = _record(outcome)
            if record is None:
                failed[training.job.name] = outcome.failure
            else:
                sweep.results.add(training.recipe, record)
                sweep.results.write()
                if not keep_weights:
                    _remove_weights(training, but_pretrained=needed_later(training))
            note_failed(sweep.folder, Failures(failed, left))
            on_end(training, record, outcome)
    return failed


def _remove_weights(training: Training, *, but_pretrained: bool) -> None:
    job = training.job
    for run in [*map(job.tuned, job.tasks), *([] if but_pretrained else [job.run])]:
        remove_weights(run)


def _record(outcome: Outcome) -> Record | None:
    return outcome.value if isinstance(outcome.value, Record) else None
