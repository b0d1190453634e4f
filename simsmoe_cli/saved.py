"""What training saved, opened for reading: which checkpoints a run has, and their weights.

Whoever looks at a model afterwards (evaluation, the collapse report) needs this and no trainer;
`train/checkpoint.py` describes the files and writes them. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import nn

from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.model.language_model import Backbone
from simsmoe_cli.recipe import Recipe
from simsmoe_cli.rundir import RunDir

MODEL, TRAINING, STATE = "model.safetensors", "training.safetensors", "state.json"
_STEP = re.compile(r"step-(\d{7,})")


def step_name(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step-{step:07d}"


def list_checkpoints(run: RunDir) -> list[tuple[int, Path]]:
    """Whole checkpoints of a run, oldest first."""
    if not run.checkpoints.is_dir():
        return []
    found = ((_STEP.fullmatch(path.name), path) for path in run.checkpoints.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


def find(run: RunDir, which: str) -> Path:
    """The folder of a run's checkpoint: "best", "last" or a step number.

    Raises:
        UserError: there is none; says which there are.
    """
    if not run.path.is_dir():
        raise UserError(
            "no such run folder",
            where=str(run.path),
            hint="Train one with `simsmoe pretrain`, or give the folder's path.",
            code=EXIT_DATA,
        )
    steps = dict(list_checkpoints(run))
    if which == "best" and (run.best / STATE).is_file():
        return run.best
    if which == "last" and steps:
        return steps[max(steps)]
    if which.isdecimal() and int(which) in steps:
        return steps[int(which)]
    available = [str(step) for step in steps]
    if steps:
        available.append("last")
    if (run.best / STATE).is_file():
        available.append("best")
    raise UserError(
        f"no checkpoint '{which}' in this run",
        where=str(run.path),
        hint=f"Available: {', '.join(available) or 'none; the run saved no checkpoint yet'}.",
        code=EXIT_DATA,
    )


def read_state(folder: Path) -> dict[str, Any]:
    """The state.json of a checkpoint, with its files checked against their checksums.

    Raises:
        UserError: missing or damaged.
    """
    path = folder / STATE
    try:
        state: dict[str, Any] = json.loads(path.read_bytes())
        if state.pop("checksum") != state_checksum(state):
            raise _damaged(path, "its checksum does not match")
        for name, expected in state["sha256"].items():
            if sha256(folder / name) != expected:
                raise _damaged(folder / name, "its checksum does not match")
    except FileNotFoundError as error:
        raise _damaged(Path(error.filename), "the file is missing") from None
    except OSError as error:
        raise _damaged(Path(error.filename or path), f"{error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, "it cannot be read") from None
    return state


def load_weights(folder: Path, state: dict[str, Any], model: Backbone) -> None:
    """Fill the model from a checkpoint folder or best/.

    Raises:
        UserError: the weights are of another model; says which router, or which tensors differ.
    """
    trained, given = state["recipe"]["moe"]["router"], model.recipe.moe.router
    if model.moe_layers and trained != given:  # tensors of different routers may well fit
        raise UserError(
            f"the checkpoint was trained with router {trained}, and this model has {given}",
            where=str(folder),
            hint=f"Set moe.router to {trained}.",
            code=EXIT_DATA,
        )
    name = next(name for name in state["sha256"] if name != TRAINING)
    try:
        load_model(model, folder / name, strict=True, device=_device(model))
    except (SafetensorError, OSError) as error:
        raise _damaged(folder / name, str(error)) from None
    except RuntimeError as error:
        if not str(error).startswith("Error(s) in loading state_dict"):
            raise
        lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        raise UserError(
            "the checkpoint's weights do not fit this model: " + "; ".join(lines[:3]),
            where=str(folder / name),
            hint="Use the recipe (router, experts, widths) it was trained with.",
            code=EXIT_DATA,
        ) from None


def recipe_of(folder: Path, state: dict[str, Any]) -> Recipe:
    """The recipe a checkpoint was written with.

    Raises:
        UserError: this version of simsmoe has no such recipe.
    """
    try:
        return Recipe.model_validate(state["recipe"])
    except ValidationError as error:
        names = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
        raise UserError(
            f"its recipe is not one of this version of simsmoe ({names})",
            where=str(folder),
            hint="Use the version the run was trained with; environment.json names it.",
            code=EXIT_DATA,
        ) from None


def state_checksum(state: dict[str, Any]) -> str:
    """Of a state.json without its own checksum."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _device(model: nn.Module) -> str:
    return str(next(model.parameters()).device)


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"damaged checkpoint: {why}",
        where=str(path),
        hint="Use another one with --checkpoint, or resume from an older one.",
        code=EXIT_DATA,
    )
