"""Carries out a sweep: which trainings are due, what they cost, and their results."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.tasks.store import open_task
from simsmoe_cli.errors import DataError, UserError, printable
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.checkpoint import list_checkpoints
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.sweep.cells import Cell, baseline_of, cells_of, recipe_of
from simsmoe_cli.sweep.definition import Definition
from simsmoe_cli.sweep.results import (
    ACCURACY,
    Cost,
    Record,
    Results,
    Text,
    compared,
    settings_of,
)
from simsmoe_cli.sweep.side_by_side import Outcome, Work, outcomes
from simsmoe_cli.sweep.training import (
    Job,
    Machine,
    cost_of,
    remove_weights,
    seconds_per_step,
    train_and_measure,
)
from simsmoe_cli.train import session

LOGS, LOCK = "logs", ".sweep.lock"


@dataclass(frozen=True)
class Training:
    """A training of a sweep; several cells may share it.

    Attributes:
        job: what to do.
        recipe: resolved.
        trained: steps that its run has from an earlier, interrupted sweep.
    """

    job: Job
    recipe: Recipe
    trained: int = 0

    @property
    def cost(self) -> Cost:
        return self.job.cost

    @property
    def share_due(self) -> float:
        """The share of its steps that are left, between 0 and 1."""
        return max(0.0, 1 - self.trained / self.cost.steps)

    @property
    def flops_due(self) -> float:
        """FLOPs of the steps that are left."""
        return self.cost.flops * self.share_due


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
        say: told what is prepared.
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
    stores: dict[str, TokenStore] = {}
    costs = _Costs(sweep, stores)
    known: dict[str, str] = {}  # names of runs by what identifies their recipe
    most = max(len(cell.seeds) for cell in cells)
    for turn in range(most):
        for cell in cells:
            if turn >= len(cell.seeds):
                continue
            seed = cell.seeds[turn]
            recipe = recipe_of(definition, cell, seed)
            corpus = recipe.data.corpus
            if corpus not in stores:
                stores[corpus] = session.open_store(recipe, data_dir, say)
                _require_same_text(found, corpus, stores[corpus])
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
            job = Job(
                name,
                cell.recipe(definition),
                tuple(overrides),
                folder,
                data_dir,
                costs.of(recipe),
                tuple(definition.finetune),
            )
            sweep.trainings.append(Training(job, recipe, _last_step(job.run)))
    for other in others:
        _take_over(sweep, other)
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


def _take_over(sweep: Sweep, others: Results) -> None:
    """Add finished trainings of another sweep that read the same text."""
    same = {
        name
        for name, text in others.corpora.items()
        if name in sweep.results.corpora
        and sweep.results.corpora[name].fingerprint == text.fingerprint
    }
    for training in sweep.due:
        record = sweep.measured(others, training.recipe)
        if record is not None and record.corpus in same:
            sweep.results.add(training.recipe, record)


class _Costs:
    """The costs of trainings; those that differ in their seed alone cost the same."""

    def __init__(self, sweep: Sweep, stores: dict[str, TokenStore]):
        self.sweep, self.stores = sweep, stores
        self.known: dict[str, Cost] = {}

    def of(self, recipe: Recipe) -> Cost:
        train = recipe.train.model_copy(update={"seed": 0})
        key = repr(recipe.model_copy(update={"train": train}))
        if key not in self.known:
            vocab_size = self.stores[recipe.data.corpus].manifest.vocab_size
            self.known[key] = cost_of(recipe, vocab_size)
        return self.known[key]

    def same_flops(self, cell: Cell, seed: int) -> str:
        """The steps with which a cell takes as many FLOPs as its baseline, as an override."""
        definition = self.sweep.definition
        baseline = baseline_of(definition, cell, self.sweep.cells)
        if baseline is None:
            raise UserError(
                f"cell {cell.name} has no baseline whose FLOPs it could take", where="budget"
            )
        own = self.of(recipe_of(definition, cell, seed))
        wanted = self.of(recipe_of(definition, baseline, seed)).flops
        return f"train.steps={max(1, round(own.steps * wanted / own.flops))}"


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


def machines(device: str, jobs: int) -> list[Machine]:
    """Where `jobs` trainings compute side by side: threads divided, a GPU each where there are
    several."""
    import torch

    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        count = torch.cuda.device_count()
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        gpus = seen if len(seen) == count and seen[0] else [str(number) for number in range(count)]
        if count < 2 or ":" in device:
            return [Machine(device)] * jobs
        return [Machine(device, gpu=gpus[number % count]) for number in range(jobs)]
    threads = max(1, torch.get_num_threads() // jobs) if jobs > 1 else 0
    return [Machine(device, threads)] * jobs


def estimate_seconds(due: Sequence[Training], folder: Path, at: Sequence[Machine]) -> float:
    """How long trainings will take, from a few steps of the first on each machine.

    FLOPs are taken to cost the same time in all; evaluation and measuring are not counted.

    Args:
        due: at least one training, in the order in which they begin.
        folder: of the sweep.
        at: where trainings compute side by side.
    """
    first = due[0]
    log = folder / LOGS / "timing.log"
    job = replace(first.job, runs_dir=folder / LOGS / "timing")
    works = [Work(seconds_per_step, (job,), log) for _ in at]
    took: list[float] = []
    with contextlib.closing(outcomes(works, at)) as ended:
        for outcome in ended:
            if outcome.failure:
                raise UserError(
                    f"the timing failed: {outcome.failure}", hint=f"{log} has what it printed."
                )
            took.append(outcome.value)
    per_flop = sum(took) / len(took) / (first.cost.flops / first.cost.steps)
    return per_flop * flops_of_the_last([one.flops_due for one in due], len(at))


def flops_of_the_last(due: Sequence[float], jobs: int) -> float:
    """FLOPs until the last of several trainings ends, where each begins when one of `jobs` is free.

    Args:
        due: FLOPs of each, in their order.
        jobs: how many compute side by side.
    """
    busy = [0.0] * jobs
    for flops in due:
        heapq.heapreplace(busy, busy[0] + flops)
    return max(busy)


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
    keeps_weights: Callable[[Training], bool],
    on_end: Callable[[Training, Record | None, Outcome], None],
) -> dict[str, str]:
    """Do all due trainings; the results are written after each.

    Args:
        sweep: its folder is locked by the caller.
        at: one for each training at a time.
        keeps_weights: whether the checkpoints of a finished training stay.
        on_end: told each training, its record, and how its process ended.

    Returns:
        Why trainings failed, by name.
    """
    due, failed = sweep.due, {}
    works = [
        Work(train_and_measure, (one.job,), sweep.folder / LOGS / f"{one.job.name}.log")
        for one in due
    ]
    with contextlib.closing(outcomes(works, at)) as ended:
        for outcome in ended:
            training = due[outcome.number]
            record = _record(outcome)
            if record is None:
                failed[training.job.name] = outcome.failure
                on_end(training, None, outcome)
                continue
            sweep.results.add(training.recipe, record)
            sweep.results.write()
            if not keeps_weights(training):
                remove_weights(training.job.run)
            on_end(training, record, outcome)
    return failed


def _record(outcome: Outcome) -> Record | None:
    return outcome.value if isinstance(outcome.value, Record) else None
