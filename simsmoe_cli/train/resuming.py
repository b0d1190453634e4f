"""Checks of a resumed run: its checkpoint, and that its settings do not change its computation."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simsmoe_cli.errors import NotPermitted, UserError
from simsmoe_cli.recipe.load import load_recipe, override_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.changes import differences
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
    "parallel",
)
WITHOUT_RECIPE = (
    "Mend the file or move it away: the checkpoints hold the recipe, and --resume takes it from "
    "there. eval, generate, export and collapse-report do not need the file."
)


def state_to_resume(run: RunDir, start: Path) -> dict[str, Any]:
    """The state of a checkpoint to resume from.

    Raises:
        UserError: it cannot be read; names another one, as --resume takes it.
    """
    try:
        return checkpoint.read_state(start)
    except NotPermitted:
        raise
    except UserError as error:
        others = [path for _, path in checkpoint.list_checkpoints(run) if path != start]
        hint = (
            f"Go on from another one: --resume {shlex.quote(str(others[-1]))}, or from the newest "
            "that is whole: --resume auto."
            if others
            else "The run has no other checkpoint; start again with another --name."
        )
        raise UserError(error.what, where=error.where, hint=hint, code=error.code) from None


def own_recipe(run: RunDir, before: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe of a run with overrides: that of its recipe.yaml, or of its checkpoint where that
    file is missing.

    Args:
        run: to go on with.
        before: the recipe of its checkpoint.
        overrides: "a.b=c" settings, later ones win.

    Raises:
        UserError: recipe.yaml or an override cannot be used; says how to go on without the file.
    """
    if not run.recipe.exists():
        return override_recipe(before, overrides)
    try:
        load_recipe(str(run.recipe))
    except NotPermitted:
        raise
    except UserError as error:
        raise UserError(
            error.what,
            where=error.where,
            hint=f"{error.hint} {WITHOUT_RECIPE}".strip(),
            code=error.code,
            problems=error.problems,
        ) from None
    return load_recipe(str(run.recipe), overrides)


def require_same_course(run: RunDir, before: Recipe, recipe: Recipe, step: int) -> None:
    """Raise a UserError if a recipe would change the computation of a resumed run.

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
