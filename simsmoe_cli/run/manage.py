"""Renames and deletes run folders, unless another process writes to them."""

from __future__ import annotations

import os
from pathlib import Path

from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.files import atomic
from simsmoe_cli.files.names import check_name
from simsmoe_cli.run.find import is_run
from simsmoe_cli.run.folder import RunDir


def size_bytes(folder: Path) -> int:
    """Bytes of the files in a folder; those that cannot be seen count nothing."""
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(here, name)).st_size
            except OSError:
                continue
    return total


def require_begun(run: RunDir) -> None:
    """Raise a UserError for a folder that may be something else, though it has a run's parts."""
    if not is_run(run.path):
        raise DataError(
            "this may not be a run: it has neither events.jsonl nor recipe.yaml",
            where=str(run.path),
            hint="Delete or rename it yourself if it is one.",
        )


def rename(run: RunDir, name: str) -> RunDir:
    """Give a run another name in its folder of runs.

    Raises:
        UserError: it is no run, the name cannot be one or is taken, another process writes to the
            run, or the system refuses.
    """
    check_name(name, where="NAME")
    require_begun(run)
    new = run.path.parent / name
    if os.path.lexists(new):
        raise UserError(
            "this name is taken", where=str(new), hint="Choose another one, or delete that run."
        )
    try:
        with run.locked():
            run.path.rename(new)
    except OSError as error:
        raise _failed("renamed", run.path, error) from None
    return RunDir(new)


def delete(run: RunDir) -> None:
    """Delete a run; of a link to one, only the link.

    Raises:
        UserError: it is no run, another process writes to it, or the system refuses.
    """
    require_begun(run)
    try:
        if run.path.is_symlink():
            run.path.unlink()
            return
        with run.locked():
            atomic.remove(run.path)
    except OSError as error:
        raise _failed("deleted", run.path, error) from None


def _failed(what: str, path: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot be {what}: {error.strerror}",
        where=str(path),
        hint="Look at the permissions of its folder.",
    )
