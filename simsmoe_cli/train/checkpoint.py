"""Checkpoints: written beside their name and renamed when whole, checked when read.

    checkpoints/step-0000100/
      model.safetensors      parameters and buffers (pair counts among them)
      training.safetensors   optimizer moments, carried memory, random states, open log window
      state.json             step, best loss, event position, recipe, vocabulary, sha256 of both
                             and of itself
    best/
      weights-0000100-SHA.safetensors
      state.json             step, loss, recipe, vocabulary, sha256; replaced atomically

Nothing is ever unpickled. `saved.py` holds what only reads.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.rundir import RunDir
from simsmoe_cli.saved import (
    MODEL,
    STATE,
    TRAINING,
    find,
    list_checkpoints,
    load_weights,
    read_state,
    recipe_of,
    sha256,
    state_checksum,
    step_name,
)

__all__ = [
    "MODEL",
    "STATE",
    "TRAINING",
    "discard_after",
    "find",
    "list_checkpoints",
    "load_training",
    "load_weights",
    "optimizer_tensors",
    "prune",
    "read_state",
    "recipe_of",
    "restore_optimizer",
    "save",
    "save_best",
    "step_name",
]


class HasState(Protocol):
    """A module, or a copy of what it holds."""

    def state_dict(self) -> dict[str, Tensor]: ...


def save(
    run: RunDir, step: int, model: HasState, training: dict[str, Tensor], state: dict[str, Any]
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
        save_model(model, str(partial / MODEL))  # type: ignore[arg-type]
        save_file(training, partial / TRAINING)
        checksums = {name: sha256(partial / name) for name in (MODEL, TRAINING)}
        _write_state(partial / STATE, state | {"step": step, "sha256": checksums})
        for path in (partial / MODEL, partial / TRAINING, partial):
            _sync(path)
        partial.rename(final)
        _sync(run.checkpoints)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise _cannot_write(final, error) from error
    return final


def save_best(run: RunDir, step: int, model: HasState, state: dict[str, Any]) -> None:
    """Replace the best weights: the new file first, then the pointer to it, atomically."""
    run.best.mkdir(parents=True, exist_ok=True)
    partial = [run.best / ".weights.partial", run.best / ".state.partial"]
    try:
        save_model(model, str(partial[0]))  # type: ignore[arg-type]
        _sync(partial[0])
        checksum = sha256(partial[0])
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


def load_training(folder: Path) -> dict[str, Tensor]:
    """The tensors a run goes on from, on the CPU."""
    return load_file(folder / TRAINING)


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


def _write_state(path: Path, state: dict[str, Any]) -> None:
    with open(path, "w") as file:
        json.dump(state | {"checksum": state_checksum(state)}, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: Exception) -> UserError:
    return UserError(
        f"cannot write the checkpoint: {error}",
        where=str(path),
        hint="Free some space; earlier checkpoints are untouched, --resume auto goes on from them.",
        code=EXIT_DATA,
    )
