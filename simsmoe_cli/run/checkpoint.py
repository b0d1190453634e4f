"""The checkpoints of a run: lists them, reads them with checks, and deletes them.

    checkpoints/step-0000100/
      model.safetensors      parameters and buffers (pair counts among them)
      training.safetensors   optimizer moments, carried memory, random states, open log window
      state.json             step, best loss, event position, recipe, vocabulary, sha256 of both
                             and of itself (`checkpoint_state.py`)
    best/
      weights-0000100-SHA.safetensors
      state.json             step, loss, recipe, vocabulary, sha256; replaced atomically

Of several ranks each writes a file of its own, model-00001-of-00008.safetensors and so on, with the
blocks of tensors that it holds (`tensor_files.py`); the first writes state.json when all are
written. Any number of ranks reads them.

A folder that cannot be read is renamed to damaged-1-NAME before another takes its place. Nothing is
ever unpickled. `save_checkpoint.py` writes checkpoints, `weights.py` puts the tensors into a model.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from simsmoe_cli.errors import DataError, NotPermitted, UserError, listed, printable
from simsmoe_cli.files import atomic
from simsmoe_cli.files.untrusted import Unreadable, read_json, unsealed, validated
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.attached import attached_run, no_weights
from simsmoe_cli.run.checkpoint_state import (
    LARGEST_STATE,
    OF_TRAINING,
    STATE,
    State,
)
from simsmoe_cli.run.event_log import read_events
from simsmoe_cli.run.find import require_run
from simsmoe_cli.run.folder import SWEEP_MARK, RunDir

_STEP = re.compile(r"step-([0-9]{7,})")
_FIELDS_NAMED = 3  # of a recipe that does not fit, in a message


def step_name(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step-{step:07d}"


def step_folders(run: RunDir) -> list[tuple[int, Path]]:
    """Folders named like a checkpoint, oldest first, whole or not."""
    if not run.checkpoints.is_dir():
        return []
    found = ((_STEP.fullmatch(path.name), path) for path in run.checkpoints.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match and path.is_dir())


def list_checkpoints(run: RunDir) -> list[tuple[int, Path]]:
    """Whole checkpoints of a run, oldest first."""
    return [(step, path) for step, path in step_folders(run) if (path / STATE).is_file()]


def find(run: RunDir, which: str) -> Path:
    """The folder of a run's checkpoint: "best", "last" or a step number.

    Raises:
        UserError: there is no such checkpoint; the hint lists those that exist.
    """
    require_run(run)
    steps = dict(list_checkpoints(run))
    if which == "best" and (run.best / STATE).is_file():
        return run.best
    if which == "last" and steps:
        return steps[max(steps)]
    if len(which) < 20 and which.isdecimal() and int(which) in steps:
        return steps[int(which)]
    if started := attached_run(run):
        raise no_weights(run, started)
    available = _available(run) or f"none; {_why_none(run)}"
    raise DataError(
        f"no checkpoint '{printable(which)}' in this run",
        where=str(run.path),
        hint=f"Available: {available}.",
    )


def read_state(folder: Path) -> dict[str, Any]:
    """The state.json of a checkpoint, valid by the schema `State`. The checksums of the files that
    it names are compared.

    Raises:
        UserError: a file is missing, damaged or not readable for this user.
    """
    path = folder / STATE
    try:
        state = unsealed(read_json(path, LARGEST_STATE))
    except FileNotFoundError:
        raise damaged(path, "the file is missing") from None
    except Unreadable as error:
        raise damaged(path, f"it {error}") from None
    try:
        validated(State, state)
    except Unreadable as error:
        raise damaged(path, error) from None
    named = _STEP.fullmatch(folder.name)
    if named and int(named[1]) != state["step"]:
        raise damaged(path, f"it is of step {state['step']}")
    for name, expected in state["sha256"].items():
        file = folder / name
        try:
            found = sha256(file) if file.is_file() else None
        except PermissionError:
            raise NotPermitted(file) from None
        except OSError as error:
            raise damaged(file, error) from None
        if found is None:
            raise damaged(file, "the file is missing")
        if found != expected:
            raise damaged(file, "its checksum does not match")
    return state


def weights_files(folder: Path, state: Mapping[str, Any]) -> list[Path]:
    """The files with the weights; several ranks wrote several."""
    names = sorted(state["sha256"])
    return [folder / name for name in names if not name.startswith(OF_TRAINING)]


def training_files(folder: Path, state: Mapping[str, Any]) -> list[Path]:
    """The files with the rest of the state of training; best/ has none."""
    return [folder / name for name in sorted(state["sha256"]) if name.startswith(OF_TRAINING)]


def weights_sha256(state: Mapping[str, Any]) -> str:
    """The SHA-256 of the file with the weights; of several, that of theirs."""
    sums = [state["sha256"][path.name] for path in weights_files(Path(), state)]
    return str(sums[0]) if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def recipe_of(folder: Path, state: dict[str, Any]) -> Recipe:
    """The recipe a checkpoint was written with.

    Raises:
        UserError: the recipe does not fit this version of simsmoe.
    """
    try:
        recipe = Recipe.model_validate(state["recipe"])
    except ValidationError as error:
        wrong = [".".join(map(str, detail["loc"])) for detail in error.errors()]
    else:
        wrong = [] if bool(recipe.finetune.task) == ("task" in state) else ["finetune.task"]
    if wrong:
        fields = listed(wrong, _FIELDS_NAMED, longest=160, between="; ")
        raise DataError(
            f"its recipe does not fit this version of simsmoe ({fields})",
            where=str(folder),
            hint="Use the version the run was trained with; environment.json names it.",
        )
    return recipe


def newest(run: RunDir) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be read, and notes on newer ones that cannot.

    Returns:
        None where the run has saved no checkpoint.

    Raises:
        UserError: it has saved checkpoints, and none of them can be read.
    """
    found = [(step, path) for step, path in step_folders(run) if any(path.iterdir())]
    notes = []
    for step, path in reversed(found):
        try:
            read_state(path)
        except NotPermitted:
            raise
        except UserError as error:
            notes.append(
                f"checkpoint {step} is skipped and kept aside: {error.where}: {error.what}"
            )
        else:
            if notes:
                notes.append(f"resuming from checkpoint {step}, the newest that is complete")
            return path, notes
    if notes:
        raise DataError(
            f"no checkpoint of this run can be read: {notes[0]}",
            where=str(run.path),
            hint="Start again with another --name, or put a copy of a checkpoint in its place.",
        )
    return None, []


def prune(run: RunDir, keep_last: int) -> None:
    """Delete all but the newest checkpoints, and leftovers of interrupted writes."""
    for _, path in list_checkpoints(run)[:-keep_last]:
        atomic.remove(path)
    atomic.clean(run.checkpoints)


def tidy(run: RunDir) -> None:
    """Finish writes and deletions that a killed process began in a run folder."""
    for folder in (run.path, run.checkpoints, run.best):
        atomic.clean(folder)
    with contextlib.suppress(UserError):
        if run.best.is_dir():
            unlink_all_but(run, read_state(run.best)["sha256"])


def discard_after(run: RunDir, step: int) -> list[int]:
    """Delete the checkpoints after the step that a run goes on from, newest first; returns their
    steps.

    Checkpoints that cannot be read are renamed and not deleted.
    """
    deleted: list[int] = []
    for number, path in reversed(step_folders(run)):
        if number > step:
            try:
                read_state(path)
            except UserError:
                make_room(path)
            else:
                atomic.remove(path)
                deleted.insert(0, number)
    return deleted


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that nothing reads it again; returns its new path."""
    number = 1
    while (aside := path.with_name(f"damaged-{number}-{path.name}")).exists():
        number += 1
    path.rename(aside)
    return aside


def make_room(path: Path) -> None:
    """Move a damaged checkpoint out of the way; an empty folder is deleted."""
    with contextlib.suppress(FileNotFoundError):
        if any(path.iterdir()):
            set_aside(path)
        else:
            path.rmdir()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(path: Path, why: str | Exception) -> UserError:
    """The error for a damaged file of a checkpoint; the hint lists the run's other checkpoints.

    Args:
        path: of the file.
        why: the reason, or what reading it raised.
    """
    if isinstance(why, FileNotFoundError):
        why = "the file is missing"
    elif isinstance(why, OSError):
        why = why.strerror or str(why)
    folder = path.parent
    run = RunDir(folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent)
    others = _available(run, but=folder)
    return DataError(
        f"damaged checkpoint: {printable(str(why), 400)}",
        where=str(path),
        hint=f"Use another checkpoint of this run: {others}."
        if others
        else "The run has no other checkpoint.",
    )


def _available(run: RunDir, but: Path | None = None) -> str:
    """The checkpoints of a run in words; empty if it has none."""
    steps = [str(step) for step, path in list_checkpoints(run) if path != but]
    if steps and but is None:
        steps.append("last")
    if (run.best / STATE).is_file() and run.best != but:
        steps.append("best")
    return ", ".join(steps)


def _why_none(run: RunDir) -> str:
    """Why a run has no checkpoints, in words."""
    saved = run.events.is_file() and any(
        event["kind"] == "checkpoint" for event in read_events(run.events)
    )
    if not saved:
        return "the run saved no checkpoint yet"
    if (run.path.parent / SWEEP_MARK).is_file():
        return (
            "the sweep deleted them when it had measured this run; with --keep-weights it keeps "
            "those of the trainings that it finishes"
        )
    return "they were deleted"


def unlink_all_but(run: RunDir, kept: Container[str]) -> None:
    """Delete the files of weights in best/ that are not among those to keep."""
    for path in run.best.glob("weights-*.safetensors"):
        if path.name not in kept:
            path.unlink()
