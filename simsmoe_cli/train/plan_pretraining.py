"""Makes a plan from a `simsmoe pretrain` command line: the recipe, run folder and checkpoint.

Nothing is written here, so mistakes of the user are reported before any file changes.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsmoe_cli.errors import UserError
from simsmoe_cli.files.names import check_name, safe_name
from simsmoe_cli.parallel.launch import launch
from simsmoe_cli.recipe.load import load_recipe, require_ranks
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.find import find_run, means_run
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.pretrained import Pretrained
from simsmoe_cli.train.pretrained_folder import PretrainedFolder
from simsmoe_cli.train.resuming import own_recipe, require_same_course, state_to_resume
from simsmoe_cli.train.run_place import find_place, resumed

Source = Pretrained | PretrainedFolder


@dataclass(frozen=True)
class Plan:
    """The plan for `session.train`.

    Attributes:
        recipe: resolved.
        run: the run folder; new, or that of the resumed run.
        resume_from: the checkpoint folder to resume from; None starts at step 0.
        notes: warnings about the choice of `resume_from`.
        state: of the checkpoint; None without a checkpoint.
        pretrained: the run or the Hugging Face model to start from; None: fresh weights, or a
            checkpoint.
        origin: run, step and hash of the weights of that run, which the new run keeps.
    """

    recipe: Recipe
    run: RunDir
    resume_from: Path | None
    notes: Sequence[str] = ()
    state: dict[str, Any] | None = None
    pretrained: Source | None = None
    origin: dict[str, Any] | None = None


def plan_training(
    recipe_name: str | None,
    overrides: Sequence[str],
    runs_dir: Path,
    name: str | None = None,
    resume: str | None = None,
    source: Path | None = None,
    data_dir: Path = Path(),
    ranks: int | None = None,
) -> Plan:
    """Decide recipe, run folder and starting point.

    Args:
        recipe_name: name or path; None takes the resumed run's, or else quickstart, or
            continue-huggingface for a Hugging Face model.
        overrides: "a.b=c" settings, later ones win.
        runs_dir: where run folders lie.
        name: of the run folder; None makes one from the recipe.
        resume: None, "auto" (this name's newest run, if it has a checkpoint), a run
            folder, its name under `runs_dir`, or a checkpoint folder.
        source: a run (a name or path) or the folder of a Hugging Face model to start from; None
            takes the folder of the recipe.
        data_dir: where prepared corpora lie.
        ranks: how many processes are to train; None: those that torchrun started.
    """
    ranks = launch().size if ranks is None else ranks
    if name is not None:
        check_name(name)
    if resume is not None and resume != "auto":
        if source is not None:
            raise UserError(
                "a resumed run goes on from its checkpoint", where="--from", hint="Leave it out."
            )
        run, start = resumed(resume, name, runs_dir)
        return _go_on(run, start, recipe_name, overrides, ranks)
    if resume == "auto" and name is not None and recipe_name is None:
        run, last, notes = find_place(runs_dir, name, name, resume)
        if last is not None:
            return _go_on(run, last, None, overrides, ranks, notes)
        if run.recipe.is_file():
            recipe_name = str(run.recipe)
    recipe, pretrained = starting_point(recipe_name, overrides, source, data_dir, runs_dir)
    require_pretraining(recipe)
    require_ranks(recipe, ranks)
    model = f"{recipe.name}-{recipe.moe.router}" if pretrained is None else pretrained.name
    base = name or safe_name(f"{model}-{recipe.similarity.preset}") or recipe.name
    place, last, notes = find_place(runs_dir, base, name, resume)
    if last is not None:
        return _go_on(place, last, recipe_name, overrides, ranks, notes)
    origin = pretrained.identity() if isinstance(pretrained, Pretrained) else None
    return Plan(recipe, place, None, pretrained=pretrained, origin=origin)


def starting_point(
    recipe_name: str | None,
    overrides: Sequence[str],
    source: Path | None,
    data_dir: Path,
    runs_dir: Path,
) -> tuple[Recipe, Source | None]:
    """The recipe of a new run, and the run or Hugging Face model it starts from, if any.

    Args:
        recipe_name, overrides, source, data_dir, runs_dir: as of `plan_training`.
    """
    if source is None:
        recipe = load_recipe(recipe_name or "quickstart", overrides)
        if not recipe.huggingface.used:
            return recipe, None
        source = Path(recipe.huggingface.folder)
    elif means_run(source, runs_dir):
        run = Pretrained.open(find_run(source, runs_dir), "best", data_dir)
        return run.continued(recipe_name, overrides), run
    pretrained = PretrainedFolder.open(source)
    changes = [*overrides, f"huggingface.folder={pretrained.section['folder']}"]
    name = recipe_name or "continue-huggingface"
    return load_recipe(name, changes, pretrained.settings()), pretrained


def require_pretraining(recipe: Recipe) -> None:
    """Raise a UserError for a recipe that fine-tunes."""
    if recipe.finetune.task:
        raise UserError(
            f"recipe {recipe.name} fine-tunes a pre-trained model",
            where="finetune.task",
            hint=f"Use simsmoe finetune --from RUN --task {shlex.quote(recipe.finetune.task)}.",
        )


def _go_on(
    run: RunDir,
    start: Path,
    recipe_name: str | None,
    overrides: Sequence[str],
    ranks: int,
    notes: Sequence[str] = (),
) -> Plan:
    """The plan of a run that is resumed.

    Args:
        run, start: the run and its checkpoint.
        recipe_name: name or path; None takes the run's own.
        overrides: "a.b=c" settings, later ones win.
        ranks: how many processes are to train.
        notes: warnings about the choice of checkpoint.

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
    before = checkpoint.recipe_of(start, state)
    recipe = (
        own_recipe(run, before, overrides)
        if recipe_name is None
        else load_recipe(recipe_name, overrides, _model_of(before))
    )
    require_same_course(run, before, recipe, state["step"])
    require_ranks(recipe, ranks)
    return Plan(recipe, run, start, notes, state, origin=state.get("pretrained"))


def _model_of(recipe: Recipe) -> dict[str, Any]:
    """What a recipe file need not say of a run's model: a Hugging Face model's own description."""
    if not recipe.huggingface.used:
        return {}
    return recipe.model_dump(include={"huggingface": True, "data": {"tokenizer"}})
