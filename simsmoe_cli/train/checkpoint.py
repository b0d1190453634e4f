"""Checkpoints: written beside their name and renamed when whole, checked when read.

    checkpoints/step-0000100/
      model.safetensors      parameters and buffers (pair counts among them)
      training.safetensors   optimizer moments, carried memory, random states, open log window
      state.json             step, best loss, event position, recipe, vocabulary, sha256 of both
                             and of itself
    best/
      weights-0000100-SHA.safetensors
      state.json             step, loss, recipe, vocabulary, sha256; replaced atomically

Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.model.language_model import LanguageModel
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


def save(
    run: RunDir, step: int, model: nn.Module, training: dict[str, Tensor], state: dict[str, Any]
) -> Path:
    """Write a checkpoint, whole or not at all.

    Args:
        training: tensors to go on from.
        state: what JSON can hold; `step` and checksums are added.

    Returns:
        Its folder.
    """
    final = run.checkpoints / step_name(step)
    if final.is_dir():
        return final
    partial = run.checkpoints / f".{step_name(step)}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_model(model, str(partial / MODEL))
        save_file(training, partial / TRAINING)
        checksums = {name: _sha256(partial / name) for name in (MODEL, TRAINING)}
        _write_state(partial / STATE, state | {"step": step, "sha256": checksums})
        for path in (partial / MODEL, partial / TRAINING, partial):
            _sync(path)
        partial.rename(final)
        _sync(run.checkpoints)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise _cannot_write(final, error) from error
    return final


def save_best(run: RunDir, step: int, model: nn.Module, state: dict[str, Any]) -> None:
    """Replace the best weights: the new file first, then the pointer to it, atomically."""
    run.best.mkdir(parents=True, exist_ok=True)
    partial = [run.best / ".weights.partial", run.best / ".state.partial"]
    try:
        save_model(model, str(partial[0]))
        _sync(partial[0])
        checksum = _sha256(partial[0])
        # Other contents have another name: what the pointer names now is never written to.
        weights = run.best / f"weights-{step:07d}-{checksum[:8]}.safetensors"
        os.replace(partial[0], weights)
        _write_state(partial[1], state | {"step": step, "sha256": {weights.name: checksum}})
        os.replace(partial[1], run.best / STATE)
        _sync(run.best)
    except (OSError, SafetensorError) as error:
        for path in partial:
            path.unlink(missing_ok=True)
        raise _cannot_write(run.best, error) from error
    for old in run.best.glob("weights-*.safetensors"):
        if old != weights:
            old.unlink()


def prune(run: RunDir, keep_last: int) -> None:
    """Delete all but the newest checkpoints, and what interrupted writes left behind."""
    for _, path in list_checkpoints(run)[:-keep_last]:
        doomed = path.with_name(f".{path.name}.partial")
        path.rename(doomed)
    for partial in run.checkpoints.glob(".*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def discard_after(run: RunDir, step: int) -> list[int]:
    """Delete the checkpoints of later steps, and say which: a run goes on from this one."""
    later = [(number, path) for number, path in list_checkpoints(run) if number > step]
    for _, path in later:
        shutil.rmtree(path)
    return [number for number, _ in later]


def read_state(folder: Path) -> dict[str, Any]:
    """The state.json of a checkpoint, with its files checked against their checksums.

    Raises:
        UserError: missing or damaged.
    """
    path = folder / STATE
    try:
        state: dict[str, Any] = json.loads(path.read_bytes())
        if state.pop("checksum") != _state_checksum(state):
            raise _damaged(path, "its checksum does not match")
        for name, expected in state["sha256"].items():
            if _sha256(folder / name) != expected:
                raise _damaged(folder / name, "its checksum does not match")
    except FileNotFoundError as error:
        raise _damaged(Path(error.filename), "the file is missing") from None
    except OSError as error:
        raise _damaged(Path(error.filename or path), f"{error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, "it cannot be read") from None
    return state


def load_weights(folder: Path, state: dict[str, Any], model: LanguageModel) -> None:
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


def load_training(folder: Path) -> dict[str, Tensor]:
    """The tensors a run goes on from, on the CPU."""
    return load_file(folder / TRAINING)


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


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's state by parameter name."""
    return {
        f"optimizer.{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Put Adam's state back."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        kind, _, rest = full_name.partition(".")
        if kind == "optimizer":
            key, _, owner = rest.partition(".")
            by_name.setdefault(owner, {})[key] = tensor
    for name, parameter in model.named_parameters():
        if name in by_name:
            optimizer.state[parameter] = {
                key: value.to(parameter.device) for key, value in by_name[name].items()
            }


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


def _device(model: nn.Module) -> str:
    return str(next(model.parameters()).device)


def _write_state(path: Path, state: dict[str, Any]) -> None:
    with open(path, "w") as file:
        json.dump(state | {"checksum": _state_checksum(state)}, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def _state_checksum(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"damaged checkpoint: {why}",
        where=str(path),
        hint="Use another one with --checkpoint, or resume from an older one.",
        code=EXIT_DATA,
    )


def _cannot_write(path: Path, error: Exception) -> UserError:
    return UserError(
        f"cannot write the checkpoint: {error}",
        where=str(path),
        hint="Free some space; earlier checkpoints are untouched, --resume auto goes on from them.",
        code=EXIT_DATA,
    )
