"""Writes checkpoints and best/, in one process or by several ranks together.

`checkpoint.py` has their format. Each rank writes the blocks of tensors that it holds, at the same
time as the others; no rank holds the whole model for that. A failure on one rank is raised on all.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import save_file, save_model
from torch import Tensor

from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.files import atomic
from simsmoe_cli.files.untrusted import sealed
from simsmoe_cli.parallel.sharded import OwnShare
from simsmoe_cli.parallel.writers import Writers
from simsmoe_cli.run.checkpoint import make_room, sha256, step_name, training_files, unlink_all_but
from simsmoe_cli.run.checkpoint_state import MODEL, STATE, TRAINING
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.tensor_files import TensorFiles, save_share

ALONE = Writers()


class HasState(Protocol):
    """A module, or a copy of its tensors."""

    def state_dict(self) -> dict[str, Tensor]: ...


Tensors = HasState | dict[str, Tensor] | OwnShare


def save(
    run: RunDir,
    step: int,
    model: Tensors,
    training: Tensors,
    state: dict[str, Any],
    writers: Writers = ALONE,
) -> Path:
    """Write a checkpoint, whole or not at all.

    Args:
        model: its parameters and buffers.
        training: tensors that a resumed run needs.
        state: values of state.json; `step`, checksums and the number of `training` are added.
        writers: the ranks that write it together, each its share; all of them call this.

    Returns:
        Its folder.
    """
    final = run.checkpoints / step_name(step)
    try:
        with contextlib.ExitStack() as first:

            def begin() -> str | None:
                if (final / STATE).is_file():
                    return None
                make_room(final)
                return str(first.enter_context(atomic.whole_folder(final)))

            def write() -> dict[str, str]:
                files = {writers.file_name(MODEL): model, writers.file_name(TRAINING): training}
                for name, tensors in files.items():
                    _write_tensors(tensors, partial / name)
                return {name: sha256(partial / name) for name in files}

            made = writers.first_does(begin)
            if made is None:
                return final
            partial = Path(made)
            checksums = _merged(writers.each(write))

            def finish() -> None:
                facts: dict[str, Any] = {"step": step, "sha256": checksums}
                written = TensorFiles(training_files(partial, facts))
                facts["training_tensors"] = len(written.found)
                _write_state(partial / STATE, state | facts)
                first.close()  # the folder gets its name

            writers.first_does(finish)
    except (OSError, SafetensorError) as error:
        raise _cannot_write(final, error) from error
    return final


def save_best(
    run: RunDir, step: int, model: Tensors, state: dict[str, Any], writers: Writers = ALONE
) -> None:
    """Replace the best weights: the new files first, then the state.json that names them.

    Args:
        model, state, writers: see `save`.
    """

    def write() -> dict[str, str]:
        run.best.mkdir(parents=True, exist_ok=True)
        with atomic.partial_file(run.best / writers.file_name("weights.safetensors")) as partial:
            _write_tensors(model, partial)
            checksum = sha256(partial)
            # The name depends on the contents, so a file that state.json names now is not
            # overwritten.
            name = writers.file_name(f"weights-{step:07d}-{checksum[:8]}.safetensors")
            atomic.move(partial, run.best / name)
        return {name: checksum}

    try:
        checksums = _merged(writers.each(write))

        def finish() -> None:
            _write_state(run.best / STATE, state | {"step": step, "sha256": checksums})
            unlink_all_but(run, checksums)

        # The others wait, so that no file of theirs that comes next is taken for an old one.
        writers.first_does(finish)
    except (OSError, SafetensorError) as error:
        raise _cannot_write(run.best, error) from error


def _write_tensors(tensors: Tensors, path: Path) -> None:
    """Write a file of tensors to the disk, as readable as its folder."""
    if isinstance(tensors, OwnShare):
        save_share(tensors, path)
    elif isinstance(tensors, dict):
        save_file(tensors, path)
    else:
        save_model(tensors, str(path))  # type: ignore[arg-type]
    atomic.share(path)
    atomic.sync(path)


def _merged(checksums: Sequence[dict[str, str]]) -> dict[str, str]:
    return {name: checksum for of_rank in checksums for name, checksum in of_rank.items()}


def _write_state(path: Path, state: dict[str, Any]) -> None:
    atomic.write(path, json.dumps(sealed(state), indent=1, allow_nan=False))


def _cannot_write(path: Path, error: Exception) -> UserError:
    hint = "Free some space; earlier checkpoints are kept, and --resume auto uses them."
    if "No such file" in str(error):
        hint = "--runs-dir must be a folder that stays, and that all machines see."
    return DataError(f"cannot write the checkpoint: {error}", where=str(path), hint=hint)
