"""Putting what was prepared in its place: one process at a time, whole or not at all.

Everything is built in a folder `.NAME.partial-PID` beside its place, under a lock, and renamed
when it is whole; what a failure leaves is removed at once, what a killed run leaves by the next
one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from simsmoe_cli.data.download import DISK_FULL, Progress
from simsmoe_cli.errors import EXIT_DATA, UserError


@contextlib.contextmanager
def clear_os_errors(out: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(
                f"no room left for what is prepared ({os.strerror(error.errno).lower()})",
                where=str(out),
                hint="Free some space or choose another disk with --data-dir or --out; "
                "nothing half-written was left.",
                code=EXIT_DATA,
            ) from None
        reason = (error.strerror or str(error)).lower()
        raise UserError(reason, where=str(error.filename or out), code=EXIT_DATA) from None


@contextlib.contextmanager
def locked(out: Path, report: Progress) -> Iterator[None]:
    """Let one process at a time prepare what goes there; the others wait for it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out.parent / f".{out.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report("wait for another prepare-data", 0, None)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def partial(out: Path) -> Iterator[Path]:
    """A folder to build in; nothing of it or of killed runs stays, unless it was renamed."""
    prefix = f".{out.name}.partial-"
    for left in [path for path in out.parent.iterdir() if path.name.startswith(prefix)]:
        shutil.rmtree(left)
    folder = out.parent / f"{prefix}{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def install(folder: Path, out: Path) -> None:
    """Put a finished folder in its place; one that was there goes as soon as it is."""
    if out.is_dir() and any(out.iterdir()):
        old = out.parent / f".{out.name}.partial-old"
        os.replace(out, old)
        os.replace(folder, out)
        shutil.rmtree(old)
    else:
        os.replace(folder, out)
