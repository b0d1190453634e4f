"""Text files that a report reads besides a prepared corpus, and their names as domains."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from pathlib import Path

from simsmoe_cli.errors import DataError, printable

TEXT_BYTES = 2**23  # of a text file; more is not needed for a report


def unlike(known: Collection[str], name: str) -> str:
    """A file's name, with a number where another domain has the same."""
    names = (name if number == 1 else f"{name} ({number})" for number in itertools.count(1))
    return next(one for one in names if one not in known)


def read_text(text: Path, notes: list[str]) -> str:
    """The start of a text file; adds notes about it."""
    try:
        with open(text, "rb") as file:
            content = file.read(TEXT_BYTES)
            size = text.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read the text: {error.strerror}", where=str(text)) from None
    if size > len(content):
        notes.append(f"the first {len(content):,} of the {size:,} bytes of {printable(text.name)}")
    whole = content.decode("utf-8", errors="replace")
    replaced = whole.count("\ufffd")
    if replaced > 1:  # one may be a character cut in two at the end
        notes.append(f"the text is not UTF-8: {replaced:,} places of it were replaced")
    return whole
