"""Files and folders that are replaced whole or not at all, even if the process is killed.

New content is written to ``.NAME.partial-…`` in the same folder, synced to the disk and renamed to
NAME; then the folder is synced. A process that is killed leaves its partial behind; the next
process that writes NAME deletes it. A lock (flock) on a partial says that a living process is
writing it; the system releases the lock however the process ends.

A folder that is not empty cannot be replaced by renaming, so it is first moved to ``.NAME.old-…``
while the new one, complete, waits as ``.NAME.next-…``; `clean` finishes a replacement that was
interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from simsmoe_cli.errors import UserError, printable

PARTIAL, NEXT, OLD = "partial", "next", "old"
LONGEST_NAME = 200  # characters of NAME used in its partial; file systems allow 255 bytes


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk; returns when they are there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Write everything below a folder, and the names in it, to the disk."""
    for here, _, files in os.walk(folder):
        for name in files:
            sync(Path(here, name))
        sync(Path(here))


def write(path: Path, content: str | bytes) -> None:
    """Replace a file, text in UTF-8. Its folder must exist."""
    with whole_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def move(file: Path, path: Path) -> None:
    """Sync a file and give it another name, replacing what is there.

    Into another file system it is copied: whole, or not at all.
    """
    sync(file)
    try:
        os.replace(file, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with whole_file(path) as copied:
            shutil.copyfile(file, copied)
        file.unlink()
    sync(path.parent)


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """An empty file in the folder of `path`; deleted at the end unless it was moved."""
    path = Path(os.path.realpath(path))
    clean(path.parent, path.name)
    with _claimed(path, lambda partial: partial.touch(exist_ok=False)) as partial:
        yield partial


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """An empty file to write to, which replaces `path` unless the block raises."""
    path = Path(os.path.realpath(path))
    with partial_file(path) as partial:
        yield partial
        move(partial, path)


@contextlib.contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """An empty folder to fill, which replaces `path` unless the block raises.

    Args:
        path: does not exist, or is an empty folder; its parents are created.
        replace: whether `path` may be a folder that is not empty, which is then deleted.

    Raises:
        OSError: from the block or the system, and if something else is at `path`.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    clean(path.parent, path.name)
    with _claimed(path, Path.mkdir) as partial:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                share(file)
        sync_all(partial)
        if replace and path.is_dir() and any(path.iterdir()):
            _swap(partial, path)
        else:
            os.replace(partial, path)
            sync(path.parent)


def require_new(path: Path) -> None:
    """Refuse a folder that a user names for a result, unless `whole_folder` can put it there.

    Raises:
        UserError: it is below a file; it is there and not an empty folder; or it is the current
            folder, as the user's shell would be left in one that is deleted.
    """
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise UserError("is not a folder", where=printable(parent, 200), hint="Choose another one.")
    if not path.exists():
        return
    if not path.is_dir() or any(path.iterdir()):
        raise UserError(
            "is not an empty folder", where=printable(path, 200), hint="Choose a new or empty one."
        )
    if path.samefile("."):
        raise UserError(
            "is the current folder, which cannot be replaced",
            where=printable(path, 200),
            hint="Choose a new one, as ./NAME.",
        )


def place_folder(folder: Path, path: Path) -> None:
    """Sync a folder and give it another name in the same file system, replacing a folder there.

    Unlike a partial, the folder is still there under its own name if the process is killed before
    it is in place.
    """
    path = Path(os.path.realpath(path))
    sync_all(folder)
    old = None
    if path.is_dir() and any(path.iterdir()):
        old = _beside(path, OLD)
        path.rename(old)
    try:
        os.replace(folder, path)
    except OSError:
        if old is not None:
            old.rename(path)
        raise
    sync(path.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def share(file: Path) -> None:
    """Make a file as readable as its folder; safetensors makes it readable by its owner only."""
    file.chmod(stat.S_IMODE(file.parent.stat().st_mode) & 0o666)


def remove(path: Path) -> None:
    """Delete a folder; it is renamed first, so that it disappears at once."""
    doomed = _beside(path, PARTIAL)
    path.rename(doomed)
    sync(path.parent)
    shutil.rmtree(doomed, ignore_errors=True)


def clean(folder: Path, name: str | None = None) -> None:
    """Finish or delete leftovers of killed processes in a folder, for one NAME or for all.

    Files of running processes stay.
    """
    for path in _left(folder, name, NEXT):
        with _lock(path) as free:
            if free:
                target = _target(path, NEXT, name)
                if target.exists():
                    _delete(path)
                else:
                    path.rename(target)
                    sync(folder)
    for path in _left(folder, name, OLD):
        target = _target(path, OLD, name)
        if target.exists():
            _delete(path)
        elif not _left(folder, target.name, NEXT):  # those of living processes take its place soon
            path.rename(target)
    for path in _left(folder, name, PARTIAL):
        with _lock(path) as free:
            if free:
                _delete(path)


def _swap(partial: Path, path: Path) -> None:
    mark = partial.name.rpartition("-")[2]
    following, old = (_beside(path, kind, mark) for kind in (NEXT, OLD))
    partial.rename(following)
    path.rename(old)
    following.rename(path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def as_named(path: str) -> str:
    """A path as a user knows it: instead of a partial, what it was to become."""
    return re.sub(rf"(^|/)\.([^/]+)\.{PARTIAL}-[0-9a-f]{{8}}(?=/|$)", r"\1\2", path)


def _beside(path: Path, kind: str, mark: str = "") -> Path:
    return path.with_name(f".{path.name[:LONGEST_NAME]}.{kind}-{mark or secrets.token_hex(4)}")


def _target(path: Path, kind: str, name: str | None) -> Path:
    """The path that a leftover was to replace, or was moved from."""
    return path.with_name(name or path.name[1:].rpartition(f".{kind}-")[0])


def _left(folder: Path, name: str | None, kind: str) -> list[Path]:
    """Leftovers of a kind; partials of earlier versions may end without `-…`."""
    start = "." if name is None else f".{name[:LONGEST_NAME]}.{kind}"
    with contextlib.suppress(FileNotFoundError):
        return [
            entry
            for entry in folder.iterdir()
            if entry.name.startswith(start)
            and (f".{kind}-" in entry.name or entry.name.endswith(f".{kind}"))
        ]
    return []


@contextlib.contextmanager
def _claimed(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A partial with a lock held by this process; deleted at the end unless it was renamed."""
    while True:
        partial = _beside(path, PARTIAL)
        make(partial)
        with _lock(partial) as held:
            # Another process may have deleted it as a leftover before it was locked.
            if held is not False and partial.exists():
                try:
                    yield partial
                finally:
                    _delete(partial)
                return


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool | None]:
    """Lock a file or folder. True if it is locked now, False if another process has locked it, None
    if the file system has no locks."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        locked: bool | None = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            locked = False if error.errno == errno.EWOULDBLOCK else None
        yield locked
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
