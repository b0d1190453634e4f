"""From a command line to a plan: which recipe, which run folder, from which checkpoint.

Nothing is written here; what a caller got wrong is said before anything is.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsmoe_cli.errors import EXIT_DATA, UserError, nearest
from simsmoe_cli.files.names import check_name
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir

# Fields a resumed run may change: how long and how often, and what mends a run that diverged.
FREE_ON_RESUME = (
    "description",
    "source",
    "train.steps",
    "train.lr",
    "train.clip_norm",
    "train.log_every",
    "train.validate_every",
    "train.validate_blocks",
    "train.checkpoint_every",
    "train.keep_last",
    "train.probe_every",
    "train.compile",
    "moe.backend",
    "eval",
    "finetune.epochs",
)


@dataclass(frozen=True)
class Plan:
    """What `session.train` will do.

    Attributes:
        recipe: resolved.
        run: the run folder; new, or the one to go on with.
        resume_from: the checkpoint folder to go on from; None starts at step 0.
        notes: what to say of that choice.
    """

    recipe: Recipe
    run: RunDir
    resume_from: Path | None
    notes: Sequence[str] = ()


def plan_training(
    recipe_name: str | None,
    overrides: Sequence[str],
    runs_dir: Path,
    name: str | None = None,
    resume: str | None = None,
) -> Plan:
    """Decide recipe, run folder and starting point.

    Args:
        recipe_name: name or path; None takes the resumed run's, or quickstart.
        overrides: "a.b=c" settings, later ones win.
        runs_dir: where run folders lie.
        name: of the run folder; None makes one from the recipe.
        resume: None, "auto" (this name's newest run, if it has a checkpoint), a run
            folder, its name under `runs_dir`, or a checkpoint folder.
    """
    require_one_process()
    if name is not None:
        check_name(name)
    if resume is not None and resume != "auto":
        run, start = resumed(Path(resume), name, runs_dir)
        return Plan(resumed_recipe(run, start, recipe_name, overrides), run, start)
    if resume == "auto" and name is not None and recipe_name is None:
        run = RunDir(runs_dir / name)
        if run.recipe.is_file():
            recipe_name = str(run.recipe)
    recipe = load_recipe(recipe_name or "quickstart", overrides)
    require_pretraining(recipe)
    base = name or f"{recipe.name}-{recipe.moe.router}-{recipe.similarity.preset}"
    place, last, notes = find_place(runs_dir, base, name, resume)
    if last is not None:
        return Plan(resumed_recipe(place, last, recipe_name, overrides), place, last, notes)
    return Plan(recipe, place, None)


def require_pretraining(recipe: Recipe) -> None:
    """Raise a UserError for a recipe that fine-tunes."""
    if recipe.finetune.task:
        raise UserError(
            f"recipe {recipe.name} fine-tunes a pre-trained model",
            where="finetune.task",
            hint=f"Use simsmoe finetune --from RUN --task {shlex.quote(recipe.finetune.task)}.",
        )


def find_place(
    runs_dir: Path, base: str, name: str | None, resume: str | None
) -> tuple[RunDir, Path | None, list[str]]:
    """The folder of a run, its newest checkpoint if it is one to go on with, and what to say of
    newer ones that cannot be read.

    Args:
        runs_dir: where run folders lie.
        base: of the run's name; a number follows where it is taken.
        name: the run's own, of which there is one; None numbers.
        resume: None, or "auto".

    Raises:
        UserError: the name is taken, and the run is not to be resumed; or it is, and none of its
            checkpoints can be read.
    """
    if resume == "auto":
        existing = [RunDir(runs_dir / base)] if name else _numbered(runs_dir, base)
        for run in reversed(existing):
            if run.path.exists():
                return run, *checkpoint.newest(run)
        return RunDir(runs_dir / base), None, []
    if name is None:
        return _fresh(runs_dir, base), None, []
    run = RunDir(runs_dir / name)
    if run.recipe.exists() or run.events.exists():
        raise UserError(
            "this run folder already holds a run",
            where=str(run.path),
            hint="Go on with it by --resume auto, or choose another --name.",
        )
    return run, None, []


def find_run(run: Path, runs_dir: Path) -> RunDir:
    """The run folder of a name under `runs_dir`, or of a path.

    Raises:
        UserError: neither exists; names the nearest.
    """
    for path in (runs_dir / run, run.absolute()):
        if path.is_dir():
            return RunDir(path)
    known = [path.parent.name for path in runs_dir.glob("*/recipe.yaml")]
    raise UserError(
        f"no run '{run}'", where=str(runs_dir), hint=nearest(run.name, known), code=EXIT_DATA
    )


def require_one_process() -> None:
    """Refuse to train the same thing once per process."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes not in ("", "1"):
        raise UserError(
            f"training in {processes} processes is not supported",
            where="WORLD_SIZE",
            hint="Start one process, without torchrun.",
        )


def _numbered(runs_dir: Path, base: str) -> list[RunDir]:
    """base, base-2, base-3 ... as far as they exist, oldest first."""
    found = [runs_dir / base, *runs_dir.glob(f"{base}-*")]
    numbers = {
        int(path.name.removeprefix(base).lstrip("-") or 1): path
        for path in found
        if path.is_dir() and (path.name.removeprefix(f"{base}-").isdigit() or path.name == base)
    }
    return [RunDir(numbers[number]) for number in sorted(numbers)]


def _fresh(runs_dir: Path, base: str) -> RunDir:
    number = 1
    while (path := runs_dir / (base if number == 1 else f"{base}-{number}")).exists():
        number += 1
    return RunDir(path)


def resumed(given: Path, name: str | None, runs_dir: Path) -> tuple[RunDir, Path]:
    """The run and the checkpoint to go on with.

    Args:
        given: the folder of a run or checkpoint, or the name of a run under `runs_dir`.
        name: of --name, which is a UserError beside it.
        runs_dir: where run folders lie.
    """
    if name is not None:
        raise UserError(
            "a run that is resumed by its path has its name",
            where="--name",
            hint="Leave it out, or use --resume auto.",
        )
    if not os.path.isdir(given) and os.path.isdir(runs_dir / given):
        given = runs_dir / given
    folder = Path(os.path.abspath(given))
    if folder.parent.name == "checkpoints":
        return RunDir(folder.parent.parent), folder
    run = RunDir(folder)
    return run, checkpoint.find(run, "last")


def resumed_recipe(
    run: RunDir, start: Path, recipe_name: str | None, overrides: Sequence[str]
) -> Recipe:
    """The recipe to go on with in pre-training.

    Raises:
        UserError: the checkpoint is of a fine-tuned run, or see `require_same_course`.
    """
    state = state_to_resume(run, start)
    if "task" in state:
        raise UserError(
            "this run fine-tunes a model",
            where=str(run.path),
            hint=f"Go on with it by simsmoe finetune --resume {shlex.quote(str(run.path))}.",
        )
    recipe = load_recipe(recipe_name or str(run.recipe), overrides)
    require_same_course(run, checkpoint.recipe_of(start, state), recipe, state["step"])
    return recipe


def state_to_resume(run: RunDir, start: Path) -> dict[str, Any]:
    """The state of a checkpoint to go on from.

    Raises:
        UserError: it cannot be read; names another one, as --resume takes it.
    """
    try:
        return checkpoint.read_state(start)
    except UserError as error:
        others = [path for _, path in checkpoint.list_checkpoints(run) if path != start]
        hint = (
            f"Go on from another one: --resume {shlex.quote(str(others[-1]))}, or from the newest "
            "that is whole: --resume auto."
            if others
            else "The run has no other checkpoint; start anew with another --name."
        )
        raise UserError(error.what, where=error.where, hint=hint, code=error.code) from None


def require_same_course(run: RunDir, before: Recipe, recipe: Recipe, step: int) -> None:
    """Raise a UserError unless what a resumed run computes is what it computed.

    Args:
        run: to go on with.
        before: the recipe of its checkpoint.
        recipe: the one to go on with.
        step: of the checkpoint.
    """
    changed = [
        f"{path} ({old!r} -> {new!r})"
        for path, old, new in differences(before.model_dump(), recipe.model_dump())
        if not any(path == free or path.startswith(f"{free}.") for free in FREE_ON_RESUME)
    ]
    if changed:
        raise UserError(
            f"a resumed run cannot change {', '.join(changed)}",
            where=str(run.path),
            hint="Start a new run with another --name, or resume with the settings of the run.",
        )
    if recipe.train.steps < step:
        raise UserError(
            f"the checkpoint is of step {step}, past the {recipe.train.steps} of training",
            where="finetune.epochs" if recipe.finetune.task else "train.steps",
            hint="Use more, or resume from an older checkpoint.",
        )


def differences(
    old: dict[str, Any], new: dict[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """Fields of two dumped recipes that differ: dotted path, old value, new value."""
    found: list[tuple[str, Any, Any]] = []
    for key, value in old.items():
        if isinstance(value, dict):
            found += differences(value, new[key], f"{prefix}{key}.")
        elif value != new[key]:
            found.append((prefix + key, value, new[key]))
    return found
