"""Checkpoints: written beside their name and renamed when whole, checked when read.

    checkpoints/step-0000100/
      model.safetensors      parameters and buffers (pair counts among them)
      training.safetensors   optimizer moments, carried memory, random states, open log window
      state.json             step, best loss, event position, recipe, vocabulary, sha256 of both
                             and of itself
    best/
      weights-0000100-SHA.safetensors
      state.json             step, loss, recipe, vocabulary, sha256; replaced atomically

A folder that cannot be read is renamed to damaged-1-NAME before another takes its place.

Nothing is ever unpickled. `saved.py` holds what only reads.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

from simsmoe_cli.errors import EXIT_DATA, UserError, printable
from simsmoe_cli.files import atomic
from simsmoe_cli.files.untrusted import sealed
from simsmoe_cli.run.checkpoint import (
    MODEL,
    STATE,
    TRAINING,
    damaged,
    find,
    list_checkpoints,
    load_weights,
    open_model,
    read_state,
    recipe_of,
    require_model,
    sha256,
    step_folders,
    step_name,
    weights_name,
)
from simsmoe_cli.run.folder import RunDir

__all__ = [
    "MODEL",
    "STATE",
    "TRAINING",
    "damaged",
    "discard_after",
    "find",
    "list_checkpoints",
    "load_training",
    "load_weights",
    "newest",
    "open_model",
    "optimizer_tensors",
    "prune",
    "read_state",
    "recipe_of",
    "require_model",
    "restore_optimizer",
    "save",
    "save_best",
    "set_aside",
    "step_folders",
    "step_name",
    "tidy",
    "weights_name",
]

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, beside its step


class HasState(Protocol):
    """A module, or a copy of what it holds."""

    def state_dict(self) -> dict[str, Tensor]: ...


def save(
    run: RunDir, step: int, model: HasState, training: dict[str, Tensor], state: dict[str, Any]
) -> Path:
    """Write a checkpoint, whole or not at all.

    Args:
        training: tensors to go on from.
        state: what JSON can hold; `step`, checksums and the number of `training` are added.

    Returns:
        Its folder.
    """
    final = run.checkpoints / step_name(step)
    if (final / STATE).is_file():
        return final
    try:
        _make_room(final)
        with atomic.whole_folder(final) as partial:
            save_model(model, str(partial / MODEL))  # type: ignore[arg-type]
            save_file(training, partial / TRAINING)
            checksums = {name: sha256(partial / name) for name in (MODEL, TRAINING)}
            facts = {"step": step, "sha256": checksums, "training_tensors": len(training)}
            _write_state(partial / STATE, state | facts)
    except (OSError, SafetensorError) as error:
        raise _cannot_write(final, error) from error
    return final


def save_best(run: RunDir, step: int, model: HasState, state: dict[str, Any]) -> None:
    """Replace the best weights: the new file first, then the pointer to it, atomically."""
    run.best.mkdir(parents=True, exist_ok=True)
    try:
        with atomic.partial_file(run.best / "weights") as partial:
            save_model(model, str(partial))  # type: ignore[arg-type]
            atomic.share(partial)
            checksum = sha256(partial)
            # Other contents have another name: what the pointer names now is never written to.
            weights = run.best / f"weights-{step:07d}-{checksum[:8]}.safetensors"
            atomic.move(partial, weights)
        _write_state(run.best / STATE, state | {"step": step, "sha256": {weights.name: checksum}})
    except (OSError, SafetensorError) as error:
        raise _cannot_write(run.best, error) from error
    _unlink_all_but(run, weights.name)


def prune(run: RunDir, keep_last: int) -> None:
    """Delete all but the newest checkpoints, and what interrupted writes left behind."""
    for _, path in list_checkpoints(run)[:-keep_last]:
        atomic.remove(path)
    atomic.clean(run.checkpoints)


def tidy(run: RunDir) -> None:
    """Finish what a process that was killed began to write or delete in a run folder."""
    for folder in (run.path, run.checkpoints, run.best):
        atomic.clean(folder)
    with contextlib.suppress(UserError):
        if run.best.is_dir():
            _unlink_all_but(run, weights_name(read_state(run.best)))


def discard_after(run: RunDir, step: int) -> list[int]:
    """Delete the checkpoints of later steps, the newest first, and say which: a run goes on from
    this one.

    What cannot be read is set aside and not deleted.
    """
    deleted: list[int] = []
    for number, path in reversed(step_folders(run)):
        if number > step:
            try:
                read_state(path)
            except UserError:
                _make_room(path)
            else:
                atomic.remove(path)
                deleted.insert(0, number)
    return deleted


def set_aside(path: Path) -> Path:
    """Rename something damaged, so that nobody takes it for whole; returns its new path."""
    number = 1
    while (aside := path.with_name(f"damaged-{number}-{path.name}")).exists():
        number += 1
    path.rename(aside)
    return aside


def _make_room(path: Path) -> None:
    """Move a damaged checkpoint out of the way; an empty folder is deleted."""
    with contextlib.suppress(FileNotFoundError):
        if any(path.iterdir()):
            set_aside(path)
        else:
            path.rmdir()


def newest(run: RunDir) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be read, and notes on newer ones that cannot.

    Returns:
        None where a run has saved none.

    Raises:
        UserError: it has saved some, and none of them can be read.
    """
    found = [(step, path) for step, path in step_folders(run) if any(path.iterdir())]
    notes = []
    for step, path in reversed(found):
        try:
            read_state(path)
        except UserError as error:
            notes.append(
                f"checkpoint {step} is skipped and kept aside: {error.where}: {error.what}"
            )
        else:
            if notes:
                notes.append(f"going on from checkpoint {step}, the newest that is whole")
            return path, notes
    if notes:
        raise UserError(
            f"no checkpoint of this run can be read: {notes[0]}",
            where=str(run.path),
            hint="Start anew with another --name, or put a copy of a checkpoint in its place.",
            code=EXIT_DATA,
        )
    return None, []


def load_training(folder: Path, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors a run goes on from, on the CPU.

    Raises:
        UserError: they cannot be read, or are not all there.
    """
    path = folder / TRAINING
    if TRAINING not in state["sha256"]:
        raise damaged(folder / STATE, f"it does not name {TRAINING}")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise damaged(path, str(error)) from None
    expected = state.get("training_tensors")
    if expected is not None and len(tensors) != expected:
        raise damaged(path, f"it holds {len(tensors)} tensors, not {expected}")
    return tensors


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
    """Put Adam's state back.

    Raises:
        ValueError: it is not that of this model.
    """
    by_name: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        kind, _, rest = full_name.partition(".")
        if kind == "optimizer":
            key, _, owner = rest.partition(".")
            by_name.setdefault(owner, {})[key] = tensor
    parameters = dict(model.named_parameters())
    for name, state in by_name.items():
        parameter = parameters.get(name)
        if parameter is None:
            raise ValueError(f"optimizer state of {printable(name)}, which the model has not")
        shapes = dict.fromkeys(MOMENTS, tuple(parameter.shape)) | {"step": ()}
        found = {key: tuple(tensor.shape) for key, tensor in state.items()}
        kinds = {tensor.dtype for tensor in state.values()}
        if found != shapes or kinds != {torch.float32}:
            raise ValueError(f"the optimizer state of {name} is not one of its shape in fp32")
        optimizer.state[parameter] = {
            key: value.to(parameter.device) for key, value in state.items()
        }


def _unlink_all_but(run: RunDir, kept: str) -> None:
    for path in run.best.glob("weights-*.safetensors"):
        if path.name != kept:
            path.unlink()


def _write_state(path: Path, state: dict[str, Any]) -> None:
    atomic.write(path, json.dumps(sealed(state), indent=1, allow_nan=False))


def _cannot_write(path: Path, error: Exception) -> UserError:
    return UserError(
        f"cannot write the checkpoint: {error}",
        where=str(path),
        hint="Free some space; earlier checkpoints are untouched, --resume auto goes on from them.",
        code=EXIT_DATA,
    )
