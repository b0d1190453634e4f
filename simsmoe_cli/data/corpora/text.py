"""A text that is about to be prepared: one plain file with its splits, and the counts of its
contents.

Cuts: where files have splits, between them. Otherwise at 90 and 95 % of the bytes: exactly there
for corpora whose published splits are counted in bytes (moved on to the next character when the
tokenizer is not `bytes`), after the next line end near there for any other text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from simsmoe_cli.data.corpora.facts import SPLITS
from simsmoe_cli.data.io.archives import CHUNK
from simsmoe_cli.errors import DataError, UserError

LINE_WINDOW = 1 << 16
SAMPLE_PIECES = 256


@dataclass
class Text:
    """One plain file, with the ends of its splits.

    Attributes:
        path: of the file.
        sha256: of its content.
        size: bytes.
        files: how many files it was read from.
        whole: false for a part of a known corpus.
        ends: where each split ends, in bytes.
        warnings: what the user should know.
        modified_ns: when the file was last changed.
    """

    path: Path
    sha256: str
    size: int
    files: int
    whole: bool
    ends: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    modified_ns: int = 0

    def require_unchanged(self) -> None:
        """Raise a UserError if the file has changed since it was first read."""
        if modified_ns(self.path) != self.modified_ns or self.path.stat().st_size != self.size:
            raise DataError(
                "the file changed while it was read",
                where=str(self.path),
                hint="Prepare it again when nothing writes to it.",
            )

    def span(self, split: str | None = None) -> tuple[int, int]:
        """First byte of a split, and the one past its last; of the whole text for None."""
        if split is None:
            return 0, self.size
        position = SPLITS.index(split)
        return (self.ends[SPLITS[position - 1]] if position else 0), self.ends[split]

    def chunks(self, split: str | None = None) -> Iterator[bytes]:
        """The bytes of a split, or of all of them."""
        start, stop = self.span(split)
        with open(self.path, "rb") as file:
            file.seek(start)
            while start < stop and (chunk := file.read(min(CHUNK, stop - start))):
                start += len(chunk)
                yield chunk

    def sample(self, split: str, most: int) -> Iterator[bytes]:
        """At most so many bytes of a split, in pieces spread evenly over it."""
        start, stop = self.span(split)
        if stop - start <= most:
            yield from self.chunks(split)
            return
        with open(self.path, "rb") as file:
            for piece in range(SAMPLE_PIECES):
                file.seek(start + (stop - start) * piece // SAMPLE_PIECES)
                yield file.read(most // SAMPLE_PIECES)


class Counts:
    """Bytes, characters, lines and words of a text, fed in chunks.

    A line ends with a line feed; the rest after the last line feed is a line too. Words are counted
    as in word-level work: the parts between ASCII white space, and one `<eos>` per line.
    """

    def __init__(self) -> None:
        self.bytes = self.characters = self._line_feeds = self._words = 0
        self._last = ord("\n")
        self._after_space = True

    def feed(self, chunk: bytes) -> None:
        data = np.frombuffer(chunk, dtype=np.uint8)
        self.bytes += data.size
        # All but 0x80 to 0xBF begin a character: as signed numbers, the least.
        self.characters += int(np.count_nonzero(data.view(np.int8) >= -0x40))
        self._line_feeds += int(np.count_nonzero(data == ord("\n")))
        # A space, or tab to carriage return; what is below a tab wraps around.
        space = (data - ord("\t")) <= ord("\r") - ord("\t")
        space |= data == ord(" ")
        self._words += int(np.count_nonzero(space[:-1] > space[1:]))
        self._words += int(self._after_space and not space[0])
        self._after_space = bool(space[-1])
        self._last = chunk[-1]

    @property
    def lines(self) -> int:
        return self._line_feeds + (self._last != ord("\n"))

    @property
    def words(self) -> int:
        return self._words + self.lines


def modified_ns(path: Path) -> int:
    """When a file was last changed."""
    return path.stat().st_mtime_ns


def cut(path: Path, size: int, *, exact: bool, lines: bool) -> dict[str, int]:
    """Where train, valid and test end: 90, 95 and 100 % of a file's bytes, or soon after."""
    targets = (size * 90 // 100, size * 95 // 100)
    ways = [None] if exact else [_after_line, _after_character] if lines else [_after_character]
    with open(path, "rb") as file:
        for way in ways:
            train, valid = targets if way is None else (way(file, at, size) for at in targets)
            if 0 < train < valid < size:
                return dict(zip(SPLITS, (train, valid, size), strict=True))
    raise too_short(f"{size} bytes")


def _after_line(file: IO[bytes], at: int, size: int) -> int:
    """The first byte after the next line end; after the next character if none is near."""
    file.seek(at)
    line_end = file.read(min(LINE_WINDOW, size // 100)).find(b"\n")
    return at + line_end + 1 if line_end >= 0 else _after_character(file, at, size)


def _after_character(file: IO[bytes], at: int, size: int) -> int:
    """The first byte at or after this one that begins a UTF-8 character."""
    file.seek(at)
    ahead = file.read(3)
    return at + next((i for i, byte in enumerate(ahead) if byte & 0xC0 != 0x80), len(ahead))


def too_short(length: str) -> UserError:
    """The error for a text of which a split would be empty."""
    return DataError(
        f"{length} of text are too few for a train, a valid and a test split",
        hint="Use more text; a model wants a megabyte or more.",
    )
