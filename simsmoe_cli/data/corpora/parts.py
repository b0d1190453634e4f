"""The files of a text, each with the split it belongs to.

Files are dealt to splits 90/5/5 by a fixed hash of the relative path, so that a file stays in its
split when others come and go. With fewer than 100 files, or when a split would stay empty, they are
joined in order and cut as one text instead.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from simsmoe_cli.data.corpora.facts import SPLITS, Member
from simsmoe_cli.data.io.locate import Located

FEWEST_FILES = 100


@dataclass(frozen=True)
class Part:
    """One file to read: its path, its name within the source, and its split if that is fixed."""

    path: Path
    name: str
    split: str = ""
    member: Member | None = None


@dataclass
class Source:
    """All files of a text in reading order; either every file has a split or no file has one.

    Attributes:
        located: where they are.
        parts: the files.
        python: version of the Python whose standard library this is; empty for anything else.
        whole: false for a part of a known corpus.
        warnings: what the user should know.
    """

    located: Located
    parts: list[Part]
    python: str = ""
    whole: bool = True
    warnings: list[str] = field(default_factory=list)

    @property
    def given(self) -> str:
        """The source as the user named it."""
        return self.located.given


def deal(base: Path, files: list[Path]) -> list[Part]:
    """The files in reading order, with splits if there are enough to go by file."""
    parts = [Part(path, path.relative_to(base).as_posix()) for path in files]
    parts.sort(key=lambda part: part.name)
    dealt = [replace(part, split=split_of(part.name)) for part in parts]
    if len(parts) < FEWEST_FILES or {part.split for part in dealt} != set(SPLITS):
        return parts
    return sorted(dealt, key=lambda part: SPLITS.index(part.split))


def split_of(name: str) -> str:
    """The split of a file: 90/5/5 by the SHA-256 of its relative path."""
    share = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64
    return "train" if share < 0.90 else "valid" if share < 0.95 else "test"
