"""Reading a source once: joined into one plain file, hashed, checked, and cut into splits.

Whatever a text came in (compressed, an archive, many files), after landing it is one file and
three ranges of it, and everything later reads that; a source that is one plain file stays where it
is. Memory is bounded by the chunk.

Cuts: where files have splits, between them. Otherwise at 90 and 95 % of the bytes: exactly there
for corpora whose published splits are counted in bytes (moved on to the next character when the
tokenizer is not `bytes`), after the next line end near there for any other text.
"""

from __future__ import annotations

import codecs
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from simsmoe_cli.data.corpora.facts import SPLITS, Corpus, Member
from simsmoe_cli.data.corpora.sources import Part, Source
from simsmoe_cli.data.io.archives import CHUNK, COMPRESSED, limit_for, read_chunks
from simsmoe_cli.data.io.download import Progress
from simsmoe_cli.data.tokenizers.base import not_utf8
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.files.background import Background

LINE_WINDOW = 1 << 16
SAMPLE_PIECES = 256


@dataclass
class Text:
    """A landed text: one plain file, where its splits end, and what is known of it."""

    path: Path
    sha256: str
    size: int
    files: int
    whole: bool
    ends: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    modified_ns: int = 0

    def require_unchanged(self) -> None:
        """Raise a UserError if the file is not the one that was landed any more."""
        if _modified_ns(self.path) != self.modified_ns or self.path.stat().st_size != self.size:
            raise UserError(
                "the file changed while it was read",
                where=str(self.path),
                hint="Prepare it again when nothing writes to it.",
                code=EXIT_DATA,
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

    A line is what a line feed ends, and what is left after the last one. Words are counted as
    word-level work does: what stands between ASCII white space, and one `<eos>` a line.
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


class _Passing:
    """What is seen of one file while it is read: size, lines, hash, both ends, its encoding."""

    def __init__(self, part: Part, where: str, utf8: bool):
        self.part = part
        self.where = where
        self.size = self.lines = 0
        self.begins = b""
        self.last = ord("\n")
        self._hash = hashlib.sha256() if part.member and part.member.sha256 else None
        self._decoder = codecs.getincrementaldecoder("utf-8")() if utf8 else None

    def chunks(self, limit: int) -> Iterator[bytes]:
        for chunk in read_chunks(self.part.path, limit):
            self._decode(chunk)
            if self._hash:
                self._hash.update(chunk)
            self.begins = self.begins or chunk[:128]
            if self.part.member and not self.part.member.size:
                self.lines += chunk.count(b"\n")
            self.size += len(chunk)
            self.last = chunk[-1]
            yield chunk
        self._decode(b"", final=True)

    def _decode(self, chunk: bytes, final: bool = False) -> None:
        if not self._decoder:
            return
        begin = self.size - len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise not_utf8(begin + error.start, byte, self.where) from None

    def check(self, member: Member, name: str) -> str:
        """Hold the file against the facts of the corpus `name`.

        Returns:
            A warning when it may be the beginning of the file it should be, otherwise nothing;
            UserError when it cannot be that file.
        """
        seen, expected, unit = (
            (self.size, member.size, "bytes")
            if member.size
            else (self.lines, member.lines, "lines")
        )
        share = f"{seen:,} of the {expected:,} {unit} of {name}"
        if seen > expected:
            what = f"{seen:,} {unit}, more than the {expected:,} of {name}"
        elif seen < expected and member.begins.startswith(self.begins[: len(member.begins)]):
            return (
                f"{self.where} holds {share}: this is not the whole corpus, and no result on it "
                f"is a result on {name}"
            )
        elif seen < expected:
            what = f"{share}, but it does not begin as {name} does"
        elif self._hash and self._hash.hexdigest() != member.sha256:
            what = f"wrong sha256 {self._hash.hexdigest()}, {name} has {member.sha256}"
        else:
            return ""
        hint = f"Get {name} again, or prepare this as text of your own, without --source."
        raise UserError(what, where=self.where, hint=hint, code=EXIT_DATA)


def land(
    source: Source, corpus: Corpus | None, path: Path, report: Progress, *, utf8: bool
) -> Text:
    """Read all files of a source into one file, unless it is one plain file.

    Args:
        source: what to read.
        corpus: the known corpus it should be, whose facts are then checked.
        path: the file to write, if one is needed.
        report: told about progress, in bytes.
        utf8: insist on UTF-8.

    Returns:
        The text with its cuts; UserError (EXIT_DATA) for an empty source, a wrong hash, bytes that
        are not UTF-8, and a text too short to be split.
    """
    compressed = [p.path for p in source.parts if p.path.suffix.lower() in COMPRESSED]
    limit = source.limit or limit_for(*compressed)
    total = None if compressed else sum(part.path.stat().st_size for part in source.parts)
    only, *others = (part.path for part in source.parts)
    in_place = not others and not compressed
    text = Text(
        only if in_place else path,
        "",
        0,
        len(source.parts),
        source.whole,
        warnings=list(source.warnings),
    )
    if in_place:
        text.modified_ns = _modified_ns(only)
    digest = hashlib.sha256()
    with open(os.devnull if in_place else path, "wb") as out, Background() as hashing:

        def keep(piece: bytes) -> None:
            hashing.submit(digest.update, piece)
            out.write(piece)
            text.size += len(piece)

        for part in source.parts:
            passing = _Passing(part, source.where(part), utf8)
            for chunk in passing.chunks(limit):
                keep(chunk)
                report("read", text.size, total)
            if part.path in compressed:
                limit = max(1, limit - passing.size)
            if not passing.size:
                raise UserError("the file is empty", where=passing.where, code=EXIT_DATA)
            if part.member and corpus:
                if warning := passing.check(part.member, corpus.name):
                    text.whole = False
                    text.warnings.append(warning)
            elif others and passing.last != ord("\n"):
                keep(b"\n")
            if part.split:
                text.ends[part.split] = text.size
        hashing.wait()
    text.sha256 = digest.hexdigest()
    if not in_place:
        text.modified_ns = _modified_ns(path)
    if not text.ends:
        published = corpus is not None and corpus.split == "bytes"
        text.ends = _cut(text.path, text.size, exact=published and not utf8, lines=not published)
    return text


def _modified_ns(path: Path) -> int:
    return path.stat().st_mtime_ns


def _cut(path: Path, size: int, *, exact: bool, lines: bool) -> dict[str, int]:
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
    return UserError(
        f"{length} of text are too few for a train, a valid and a test split",
        hint="Use more text; a model wants a megabyte or more.",
        code=EXIT_DATA,
    )
