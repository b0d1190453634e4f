"""Preparing something in a folder: under a lock, with a scratch folder, and clear disk errors.

Downloads and unpacked files go to a folder `.NAME.scratch-PID` next to the prepared folder. The
prepared folder is built under a temporary name and renamed when complete (`files/atomic.py`). After
a failure the scratch folder is removed at once; after a killed process, the next process removes
it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from simsmoe_cli.data.io.download import DISK_FULL, Progress
from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.files import atomic


@contextlib.contextmanager
def clear_os_errors(out: Path, left: str = "nothing half-written was left.") -> Iterator[None]:
    """Turn an OSError into one UserError; `left` says what a full disk leaves behind."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DataError(
                f"no space left for the prepared files ({os.strerror(error.errno).lower()})",
                where=str(out),
                hint=f"Free some space or choose another disk with --data-dir or --out; {left}",
            ) from None
        reason = (error.strerror or str(error)).lower()
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else out
        raise DataError(reason, where=str(where)) from None


@contextlib.contextmanager
def locked(out: Path, report: Progress) -> Iterator[None]:
    """Let only one process at a time prepare this folder; the others wait for it."""
    if not out.name.isprintable():
        raise UserError(
            "its name has characters that no terminal can show",
            where=str(out),
            hint="Choose another name with --name or --out.",
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(
            "is a file, and a folder is needed there",
            where=str(error.filename),
            hint="Choose another folder with --data-dir or --out.",
        ) from None
    lock = FileLock(out.parent / f".{out.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report("wait for another prepare-data", 0, None)
        lock.acquire()
    try:
        atomic.clean(out.parent, out.name)
        for left in _scratch_folders(out):
            shutil.rmtree(left)
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """A folder for temporary files."""
    folder = out.parent / f".{out.name}.scratch-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _scratch_folders(out: Path) -> list[Path]:
    prefix = f".{out.name}.scratch-"
    return [path for path in out.parent.iterdir() if path.name.startswith(prefix)]
