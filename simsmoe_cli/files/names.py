"""Checks names of runs, corpora and tasks, which are folders below --runs-dir or --data-dir."""

from __future__ import annotations

import os
import re
from pathlib import Path

from simsmoe_cli.errors import UserError, printable

LONGEST = 150  # bytes; names of files made from it are longer, and a file system takes 255
RESERVED = ("auto", "events.jsonl")  # --resume auto; a run may be given by its events


def check_name(name: str, where: str = "--name", below: str = "--runs-dir") -> None:
    """Refuse a name that cannot be a plain folder name, or is unsafe to print.

    Args:
        name: of a run, a corpus or a task.
        where: the option or field that gives it.
        below: the option of the folder that it is to lie in.

    Raises:
        UserError: the name is refused; the message says why.
    """
    if fault := _fault(name):
        raise UserError(
            f"'{printable(name)}' cannot be a name: {fault}",
            where=where,
            hint=f"It names a folder below {below}; letters, digits, '.', '_' and '-' are safe.",
        )


def safe_name(text: str) -> str:
    """The text if it can be a name, else a name made from it; empty if no character is left."""
    if not _fault(text):
        return text
    made = name_from(text)
    return "" if _fault(made) else made


def name_from(text: str) -> str:
    """A plain name made from a foreign text, such as a file name; empty if no character is left."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100]


def names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted; empty if there is no folder or it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError):
        return []


def _fault(name: str) -> str:
    """The problem of a name; empty if there is none."""
    if not name:
        return "it is empty"
    if not name.isprintable():
        return "it has control characters or bytes that are not text"
    if len(name.encode()) > LONGEST:
        return f"it is longer than {LONGEST} bytes"
    if "/" in name or "\\" in name:
        return "it holds a path separator"
    if name[0] in ".-":
        return f"it starts with '{name[0]}'"
    if name != name.strip():
        return "it starts or ends with a space"
    if name in RESERVED:
        return "it is a reserved word"
    return ""
