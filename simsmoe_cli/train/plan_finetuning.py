"""Makes a plan from a `simsmoe finetune` command line: the weights, the task, the recipe.

The checkpoint determines the model, its router and its similarity learning. The recipe determines
how the model is trained. It may also change settings that do not affect the shapes of backbone and
experts: similarity learning, dropout, settings of the router, or the router itself, which then
starts with fresh weights. The number of steps follows from the epochs. Validation, checkpoints and
probes come once an epoch unless the recipe says otherwise.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsmoe_cli.data.tasks.store import Task, open_task
from simsmoe_cli.errors import UserError
from simsmoe_cli.files.names import check_name, safe_name
from simsmoe_cli.huggingface.unsupported import CONFIG
from simsmoe_cli.model.classifier import kept_layers
from simsmoe_cli.parallel.launch import launch
from simsmoe_cli.recipe.load import list_recipes, load_recipe, require_ranks
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.find import find_run, is_run
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.opened import OpenedRun
from simsmoe_cli.run.vocabulary import Vocabulary
from simsmoe_cli.train.pretrained import Pretrained, Untrained
from simsmoe_cli.train.pretrained_folder import PretrainedFolder
from simsmoe_cli.train.resuming import (
    own_recipe,
    require_same_course,
    state_to_resume,
)
from simsmoe_cli.train.run_place import find_place, resumed

Source = Pretrained | PretrainedFolder
EVERY_EPOCH = ("validate_every", "checkpoint_every", "probe_every")
TASK = "finetune.task="
# Stands for the number of steps until the task is known; longer than any warm-up.
UNKNOWN_STEPS = 1_000_000_000


@dataclass(frozen=True)
class FinetunePlan:
    """The plan for `session.finetune`.

    Attributes:
        recipe: resolved, with its number of steps.
        run: the run folder; new, or that of the resumed run.
        resume_from: the checkpoint folder to resume from; None starts at step 0.
        task: to fine-tune on.
        vocabulary: of the pre-trained model.
        pretrained: the weights to start from; None where a checkpoint is resumed.
        origin: run, step and hash of those weights, which the run keeps.
        notes: warnings about the choice of `resume_from`.
    """

    recipe: Recipe
    run: RunDir
    resume_from: Path | None
    task: Task
    vocabulary: Vocabulary
    pretrained: Source | None
    origin: dict[str, Any]
    notes: Sequence[str] = ()


def plan_finetuning(
    source: Path | None,
    which: str,
    task_name: str | None,
    recipe_name: str | None,
    overrides: Sequence[str],
    *,
    data_dir: Path,
    runs_dir: Path,
    name: str | None = None,
    resume: str | None = None,
    ranks: int | None = None,
) -> FinetunePlan:
    """Decide weights, task, recipe, run folder and starting point.

    Args:
        source, which: the pre-trained run (a name or path) and its checkpoint, or the folder of a
            Hugging Face model.
        task_name: name or folder of a prepared task; None takes the recipe's.
        recipe_name: name or path; None takes finetune-TASK, or else the settings of finetune-sst2;
            for a Hugging Face model those of finetune-huggingface.
        overrides: "a.b=c" settings, later ones win.
        data_dir: where prepared corpora and tasks lie.
        runs_dir: where run folders lie.
        name: of the run folder; None makes one from the run and the task.
        resume: None, "auto", a run folder, its name under `runs_dir`, or a checkpoint folder, with
            which nothing else is chosen.
        ranks: how many processes are to train; None: those that torchrun started.
    """
    ranks = launch().size if ranks is None else ranks
    if name is not None:
        check_name(name)
    if resume is not None and resume != "auto":
        given = {"--from": source, "--task": task_name, "--recipe": recipe_name}
        given["--checkpoint"] = None if which == "best" else which
        for option, value in given.items():
            if value is not None:
                raise UserError(
                    "a resumed run goes on with its own weights, task and recipe",
                    where=option,
                    hint="Leave it out.",
                )
        run, start = resumed(resume, name, runs_dir)
        return _go_on(run, start, None, overrides, data_dir, ranks)
    if source is None:
        run = RunDir(runs_dir / (name or ""))
        if resume == "auto" and name:
            last, notes = checkpoint.newest(run)
            if last is not None:
                return _go_on(run, last, None, overrides, data_dir, ranks, notes)
        raise UserError("no pre-trained run is named", where="--from", hint="Name one: --from RUN.")
    pretrained = _open(source, which, data_dir, runs_dir)
    recipe, task = finetuning_recipe(pretrained, task_name, recipe_name, overrides, data_dir)
    base = name or safe_name(f"{pretrained.name}-{task.name}") or "finetuned"
    require_ranks(recipe, ranks)
    run, last, notes = find_place(runs_dir, base, name, resume)
    if last is not None:
        return _go_on(run, last, recipe, overrides, data_dir, ranks, notes)
    vocabulary = pretrained.vocabulary
    return FinetunePlan(recipe, run, None, task, vocabulary, pretrained, pretrained.identity())


def _open(source: Path, which: str, data_dir: Path, runs_dir: Path) -> Source:
    """The run or the Hugging Face folder of --from."""
    if is_run(source) or not (source / CONFIG).is_file():
        return Pretrained.open(find_run(source, runs_dir), which, data_dir)
    if which != "best":
        raise UserError(
            "the folder of a model has one set of weights",
            where="--checkpoint",
            hint="Leave it out.",
        )
    return PretrainedFolder.open(source)


def finetuning_recipe(
    pretrained: Source | Untrained,
    task_name: str | None,
    recipe_name: str | None,
    overrides: Sequence[str],
    data_dir: Path,
) -> tuple[Recipe, Task]:
    """The recipe of a new run, with its number of steps, and its task.

    Args:
        pretrained: the model.
        task_name, recipe_name, overrides, data_dir: as of `plan_finetuning`.

    Raises:
        UserError: the recipe has errors or does not fit the model, or the task is not prepared.
    """
    changes = list(overrides)
    if task_name is not None:
        changes.append(f"finetune.task={task_name}")
    if recipe_name is None:
        named = [change.partition("=")[2] for change in changes if change.startswith(TASK)]
        if not named:
            raise _no_task()
        recipe_name = f"finetune-{named[-1]}"
        # The recipes of tasks are those of the paper, for its own models.
        if pretrained.recipe is None or recipe_name not in dict(list_recipes()):
            recipe_name = pretrained.fallback
            about = f"description=the settings of {recipe_name}"
            changes[:0] = ["name=finetune", about, "source="]
    before = pretrained.recipe
    keep_router = before is None or _keeps_router(pretrained, before, recipe_name, changes)
    settings = pretrained.settings(keep_router=keep_router)
    base = {**settings, "train": {"steps": UNKNOWN_STEPS}}
    recipe = load_recipe(recipe_name, changes, base)
    if not recipe.finetune.task:
        raise _no_task()
    if not isinstance(pretrained, PretrainedFolder):
        pretrained.require_fit(recipe)
    if recipe.finetune.drop_last_layer:
        kept_layers(recipe)
    task = open_task(recipe.finetune.task, data_dir)
    epoch, steps = _steps(recipe, task)
    if recipe.train.steps != UNKNOWN_STEPS:
        raise _own_steps(recipe, epoch, steps)
    train = {"steps": steps, **dict.fromkeys(EVERY_EPOCH, epoch)}
    return load_recipe(recipe_name, changes, {**settings, "train": train}), task


def _own_steps(recipe: Recipe, epoch: int, steps: int) -> UserError:
    """The error where a number of steps is given, which the epochs decide."""
    return UserError(
        f"{steps} steps follow from {recipe.finetune.epochs} epochs of {epoch}",
        where="train.steps",
        hint="Leave it out, and set finetune.epochs or finetune.examples.",
    )


def _keeps_router(
    pretrained: Source | Untrained, before: Recipe, recipe_name: str, changes: Sequence[str]
) -> bool:
    """Whether a recipe keeps the checkpoint's router."""
    base = {**pretrained.settings(keep_router=False), "train": {"steps": UNKNOWN_STEPS}}
    try:
        return load_recipe(recipe_name, changes, base).moe.router == before.moe.router
    except UserError:
        return True  # loading the recipe for use reports what is wrong


def _no_task() -> UserError:
    return UserError("no task is named", where="--task", hint="Name one: --task NAME.")


def _go_on(
    run: RunDir,
    start: Path,
    wanted: Recipe | None,
    overrides: Sequence[str],
    data_dir: Path,
    ranks: int,
    notes: Sequence[str] = (),
) -> FinetunePlan:
    """The plan of a run that is resumed.

    Args:
        run, start: the run and its checkpoint.
        wanted: the recipe that a command line asks for; None takes the run's own.
        overrides: changes of the run's own.
        data_dir: where the task is looked for by name, before its earlier path.
        ranks: how many processes are to train.
        notes: warnings about the choice of checkpoint.
    """
    state = state_to_resume(run, start)
    if "task" not in state:
        raise UserError(
            "this run pre-trains a language model",
            where=str(run.path),
            hint=f"Go on with it by simsmoe pretrain --resume {shlex.quote(str(run.path))}.",
        )
    before = checkpoint.recipe_of(start, state)
    recipe = wanted or own_recipe(run, before, overrides)
    opened = OpenedRun(run, "last", start, state, before, data_dir)
    task = opened.task()
    epoch, steps = _steps(recipe, task)
    if recipe.train.steps not in (before.train.steps, steps):
        raise _own_steps(recipe, epoch, steps)
    train = recipe.train.model_copy(update={"steps": steps})
    recipe = recipe.model_copy(update={"train": train})
    require_same_course(run, before, recipe, state["step"])
    require_ranks(recipe, ranks)
    origin = state["pretrained"]
    return FinetunePlan(recipe, run, start, task, opened.vocabulary, None, origin, notes)


def _steps(recipe: Recipe, task: Task) -> tuple[int, int]:
    """Steps of an epoch, and of all."""
    examples = task.manifest.splits["train"].examples
    examples = min(recipe.finetune.examples or examples, examples)
    epoch = -(-examples // recipe.train.batch)
    return epoch, epoch * recipe.finetune.epochs
