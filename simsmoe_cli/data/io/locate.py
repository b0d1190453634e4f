"""Finds the files and folders behind a path, glob or URL that a user names.

A URL is downloaded and an archive unpacked into a scratch folder of the caller. Messages do not
show the paths in that folder: they name a file by the source that the user gave and the path within
it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from simsmoe_cli.data.io.archives import COMPRESSED, extract, is_archive, limit_for
from simsmoe_cli.data.io.download import Progress, fetch, is_url, url_name
from simsmoe_cli.errors import DataError
from simsmoe_cli.files.names import names_in

LONGEST_NAME = 255
ENDINGS = {*COMPRESSED, ".txt", ".zip", ".tar", ".tgz"}


@dataclass(frozen=True)
class Located:
    """A file or folder on this disk, and its name for the user.

    Attributes:
        given: the path, glob or URL as the user gave it.
        path: the file, or the folder.
        scratch: files below this folder were downloaded or unpacked.
        limit: the most bytes that compressed files in its archive may unpack to, together; None: a
            limit by the sizes of the compressed files.
    """

    given: str
    path: Path
    scratch: Path
    limit: int | None = None

    def where(self, path: Path) -> str:
        """A path in it as the user knows it."""
        if not path.is_relative_to(self.scratch):
            return str(path)
        return f"{self.given} ({self.name(path)})"

    def name(self, path: Path) -> str:
        """A path relative to it."""
        base = self.path if self.path.is_dir() else self.path.parent
        return path.relative_to(base).as_posix()


def locate(given: str, scratch: Path, report: Progress) -> Located:
    """The file or folder behind a path or URL, downloaded and unpacked if need be."""
    return unpack(given, reach(given, scratch, report), scratch)


def unpack(given: str, path: Path, scratch: Path) -> Located:
    """Unpack an archive and return its folder; return any other path unchanged."""
    if not is_archive(path):
        return Located(given, path, scratch)
    folder = scratch / "unpacked"
    folder.mkdir()
    extract(path, folder)
    return Located(given, folder, scratch, limit_for(path))


def reach(given: str, scratch: Path, report: Progress) -> Path:
    """The file or folder behind a path or a URL, downloaded if need be."""
    if is_url(given):
        hint = "Check the address and the network, or download it and name the file."
        return fetch([given], scratch, report, hint=hint)
    return require_exists(given)


def require_exists(given: str) -> Path:
    """The path that is given; a DataError if no file or folder is there."""
    path = user_path(given)
    if not given or is_url(given) or is_glob(given):
        return path
    if not os.path.exists(path):
        if path.is_symlink():
            raise DataError("is a link to a file that is not there", where=given)
        close = difflib.get_close_matches(path.name[:LONGEST_NAME], names_in(path.parent), n=1)
        hint = f"Did you mean '{path.parent / close[0]}'?" if close else "Check the path."
        raise DataError("no such file or folder", where=given, hint=hint)
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise DataError(
            "is neither a file nor a folder", where=given, hint="Write the text to a file first."
        )
    return path


def user_path(given: str) -> Path:
    """A path as a user writes it, with `~` for the home folder."""
    if "\0" in given:
        raise DataError("is not a name that a file can have", where=given)
    return Path(os.path.expanduser(given))


def default_name(given: str) -> str:
    """A name for the store of a path, glob or URL: its last fixed part without its endings."""
    if is_url(given):
        name = url_name(given)
    else:
        path = _glob_base(given) if is_glob(given) else user_path(given)
        name = os.path.basename(os.path.realpath(path))
    while (ending := Path(name).suffix.lower()) in ENDINGS:
        name = name[: -len(ending)]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "text"


def is_glob(given: str) -> bool:
    """Whether a user names a pattern of paths."""
    magic = any(sign in given for sign in "*?[")
    return magic and not is_url(given) and not os.path.exists(given)


def _glob_base(pattern: str) -> Path:
    """The folder that a pattern begins in."""
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    return user_path(fixed.rpartition("/")[0] or ("/" if fixed.startswith("/") else "."))


def matches(pattern: str) -> tuple[Path, list[Path]]:
    """The folder a pattern begins in, and the files it matches.

    `**` stands for folders, however deep, but enters no linked ones; hidden files and folders are
    matched only where the pattern names them.
    """
    base = _glob_base(pattern)
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    wanted = pattern[len(fixed.rpartition("/")[0]) :].strip("/").split("/")
    parts = [part if part == "**" else re.sub(r"\*\*+", "*", part) for part in wanted]
    if parts[-1] == "**":
        parts.append("*")
    try:
        found = set(base.glob("/".join(parts)))
    except (ValueError, NotImplementedError, IndexError) as error:
        raise DataError(f"is not a pattern: {error}", where=pattern) from None
    named = any(part.startswith(".") for part in parts)
    return base, sorted(
        match
        for match in found
        if os.path.isfile(match) and (named or not _is_hidden(match.relative_to(base)))
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, hidden ones and linked folders left out; OSError for a folder that
    cannot be read."""
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent, name)


def _raise(error: OSError) -> None:
    raise error
