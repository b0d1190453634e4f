"""Reading a source once: joined into one plain file, hashed, checked, and cut into splits.

The source may be compressed, an archive, or many files. The result is always one file and three
ranges of it, which all later steps read. A source that is one plain file is not copied. Memory is
bounded by the chunk.
"""

from __future__ import annotations

import codecs
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from simsmoe_cli.data.corpora.facts import Corpus, Member
from simsmoe_cli.data.corpora.parts import Part, Source
from simsmoe_cli.data.corpora.text import Text, cut, modified_ns
from simsmoe_cli.data.io.archives import COMPRESSED, limit_for, read_chunks
from simsmoe_cli.data.io.download import Progress
from simsmoe_cli.data.tokenizers.base import not_utf8
from simsmoe_cli.errors import DataError
from simsmoe_cli.files.background import Background


class _FileReader:
    """One file while it is read: its size, lines, hash, first and last bytes, and encoding."""

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
            if self.part.member and 0 < self.part.member.size < self.size:
                return  # more than the corpus has; `check` says so
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
        """Compare the file with the facts of the corpus `name`.

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
            what = f"more {unit} than the {expected:,} of {name}"
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
        raise DataError(what, where=self.where, hint=hint)


def read_source(
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
    limit = source.located.limit or limit_for(*compressed)
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
        text.modified_ns = modified_ns(only)
    digest = hashlib.sha256()
    with open(os.devnull if in_place else path, "wb") as out, Background() as hashing:

        def keep(piece: bytes) -> None:
            hashing.submit(digest.update, piece)
            out.write(piece)
            text.size += len(piece)

        for part in source.parts:
            reader = _FileReader(part, source.located.where(part.path), utf8)
            for chunk in reader.chunks(limit):
                keep(chunk)
                report("read", text.size, total)
            if part.path in compressed:
                limit = max(1, limit - reader.size)
            if not reader.size:
                raise DataError("the file is empty", where=reader.where)
            if part.member and corpus:
                if warning := reader.check(part.member, corpus.name):
                    text.whole = False
                    text.warnings.append(warning)
            elif others and reader.last != ord("\n"):
                keep(b"\n")
            if part.split:
                text.ends[part.split] = text.size
        hashing.wait()
    text.sha256 = digest.hexdigest()
    if not in_place:
        text.modified_ns = modified_ns(path)
    if not text.ends:
        published = corpus is not None and corpus.split == "bytes"
        text.ends = cut(text.path, text.size, exact=published and not utf8, lines=not published)
    return text
