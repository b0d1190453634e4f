"""From a command line to a plan: which recipe, which run folder, from which checkpoint.

Nothing is written here; what a caller got wrong is said before anything is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsmoe_cli.errors import EXIT_DATA, UserError, nearest
from simsmoe_cli.recipe import Recipe
from simsmoe_cli.recipe_loading import load_recipe
from simsmoe_cli.rundir import RunDir
from simsmoe_cli.train import checkpoint

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
)


@dataclass(frozen=True)
class Plan:
    """What `session.train` will do.

    Attributes:
        recipe: resolved.
        run: the run folder; new, or the one to go on with.
        resume_from: the checkpoint folder to go on from; None starts at step 0.
    """

    recipe: Recipe
    run: RunDir
    resume_from: Path | None


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
        resume: None, "auto" (this name's newest run, if it has a checkpoint), or the path of a
            run or checkpoint folder.
    """
    _require_one_process()
    if name is not None and (not name or name != Path(name).name or name.startswith(".")):
        raise UserError(
            f"'{name}' is no plain name",
            where="--name",
            hint="It names a folder below --runs-dir.",
        )
    if resume is not None and resume != "auto":
        if name is not None:
            raise UserError(
                "a run that is resumed by its path has its name",
                where="--name",
                hint="Leave it out, or use --resume auto.",
            )
        run, start = _resumed(Path(resume))
        return Plan(_resumed_recipe(run, start, recipe_name, overrides), run, start)
    if resume == "auto" and name is not None and recipe_name is None:
        run = RunDir(runs_dir / name)
        if run.recipe.is_file():
            recipe_name = str(run.recipe)
    recipe = load_recipe(recipe_name or "quickstart", overrides)
    base = name or f"{recipe.name}-{recipe.moe.router}-{recipe.similarity.preset}"
    if resume == "auto":
        existing = [RunDir(runs_dir / base)] if name else _numbered(runs_dir, base)
        for run in reversed(existing):
            saved = checkpoint.list_checkpoints(run)
            if saved:
                start = saved[-1][1]
                return Plan(_resumed_recipe(run, start, recipe_name, overrides), run, start)
            if run.path.exists():
                return Plan(recipe, run, None)
        return Plan(recipe, RunDir(runs_dir / base), None)
    if name is None:
        return Plan(recipe, _fresh(runs_dir, base), None)
    run = RunDir(runs_dir / name)
    if run.recipe.exists() or run.events.exists():
        raise UserError(
            "this run folder already holds a run",
            where=str(run.path),
            hint="Go on with it by --resume auto, or choose another --name.",
        )
    return Plan(recipe, run, None)


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


def _require_one_process() -> None:
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


def _resumed(folder: Path) -> tuple[RunDir, Path]:
    """The run and the checkpoint of the folder of either."""
    folder = Path(os.path.abspath(folder))
    if folder.parent.name == "checkpoints":
        return RunDir(folder.parent.parent), folder
    run = RunDir(folder)
    return run, checkpoint.find(run, "last")


def _resumed_recipe(
    run: RunDir, start: Path, recipe_name: str | None, overrides: Sequence[str]
) -> Recipe:
    """The recipe to go on with; what is computed must be what was computed."""
    state = checkpoint.read_state(start)
    before = checkpoint.recipe_of(start, state)
    recipe = load_recipe(recipe_name or str(run.recipe), overrides)
    changed = [
        f"{path} ({old!r} -> {new!r})"
        for path, old, new in _differences(before.model_dump(), recipe.model_dump())
        if not any(path == free or path.startswith(f"{free}.") for free in FREE_ON_RESUME)
    ]
    if changed:
        raise UserError(
            f"a resumed run cannot change {', '.join(changed)}",
            where=str(run.path),
            hint="Start a new run with another --name, or resume with the settings of the run.",
        )
    if recipe.train.steps < state["step"]:
        raise UserError(
            f"the checkpoint is of step {state['step']}, past the {recipe.train.steps} of training",
            where="train.steps",
            hint="Use more, or resume from an older checkpoint.",
        )
    return recipe


def _differences(
    old: dict[str, Any], new: dict[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for key, value in old.items():
        if isinstance(value, dict):
            found += _differences(value, new[key], f"{prefix}{key}.")
        elif value != new[key]:
            found.append((prefix + key, value, new[key]))
    return found
