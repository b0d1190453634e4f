"""The files that documents are read from: JSON lines, parquet, or plain text.

A source is a file, a folder, a glob, an archive of these, or a URL. Its documents are the rows of
JSON lines and parquet, and the files of plain text. A folder must hold one kind; its other files,
such as a README, are left out and named in a warning.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from simsmoe_cli.data.documents.read import Batch, Kind, read_lines, read_parquet, read_text
from simsmoe_cli.data.io.archives import COMPRESSED, is_archive, some_names
from simsmoe_cli.data.io.download import Progress, is_url, url_name
from simsmoe_cli.data.io.locate import Located, is_glob, locate, matches, user_path, walk
from simsmoe_cli.errors import DataError, listed

KINDS: dict[str, Kind] = {
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".json": "JSON lines",
    ".parquet": "parquet",
}
MOST_SHOWN = 3  # names of files that were left out


@dataclass(frozen=True)
class Origin:
    """Where a document comes from, as far as its encoding needs it.

    Attributes:
        name: of the file within the source; which split a document belongs to depends on it.
        where: the file as the user knows it.
        kind: of the file.
        split: that all its documents belong to; empty: drawn document by document.
    """

    name: str
    where: str
    kind: Kind
    split: str


@dataclass(frozen=True)
class Input(Origin):
    """A file of documents.

    Attributes:
        path: of the file.
        size: its bytes; 0 where it is not a file.
        modified_ns: when it was last changed; 0 for what was downloaded or unpacked.
    """

    path: Path
    size: int
    modified_ns: int

    @property
    def origin(self) -> Origin:
        """What is sent to the processes that encode."""
        return Origin(self.name, self.where, self.kind, self.split)

    @property
    def identity(self) -> list[str | int]:
        """What is equal for the same, unchanged file."""
        return [self.split, self.name, self.size, self.modified_ns]

    def read(self, start: int, column: str, state: object = None) -> Iterator[Batch]:
        """Its documents from number `start` on, which begins a batch; `state` is that batch's."""
        if self.kind == "JSON lines":
            return read_lines(self.path, self.where, start)
        if self.kind == "parquet":
            return read_parquet(self.path, self.where, column, start)
        return read_text(self.path, self.where, start)


@dataclass
class Inputs:
    """All files of a source, in reading order, and what the user should know about them."""

    given: str
    files: list[Input]
    warnings: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def sha256(self) -> str:
        """Equal for the same, unchanged files."""
        content = json.dumps([file.identity for file in self.files])
        return hashlib.sha256(content.encode()).hexdigest()


def kind_of(name: str) -> Kind | None:
    """The kind of documents by a file's name, compressed or not; None for plain text and others."""
    path = PurePath(name.lower())
    if path.suffix in COMPRESSED and path.suffix != ".tgz":
        path = path.with_suffix("")
    return KINDS.get(path.suffix)


def holds_documents(given: str, *, json_files: bool) -> bool:
    """Whether a path, glob or URL names JSON lines or parquet, judging by names.

    A folder or an archive does if they are at least as many as its other files, notes (.md, or no
    suffix) left out, so that a folder of code with a table in it is still text.

    Args:
        given: as the user gave it.
        json_files: whether files that end in .json count, which may be anything, and whether one
            file of documents is enough in a folder.
    """

    def counts(name: str) -> bool:
        return kind_of(name) is not None and (
            json_files or ".json" not in PurePath(name.lower()).suffixes
        )

    def mostly(paths: Iterable[PurePath]) -> bool:
        names = [path.name for path in paths if path.suffix.lower() not in ("", ".md")]
        found = sum(map(counts, names))
        return found > 0 if json_files else 0 < len(names) <= 2 * found

    if is_url(given):
        return counts(url_name(given))
    if is_glob(given):
        return counts(PurePath(given).name) or mostly(matches(given)[1])
    path = user_path(given)
    if path.is_dir():
        return mostly(walk(path))
    if is_archive(path) and path.is_file():
        return mostly(map(PurePath, some_names(path)))
    return counts(path.name)


def find_inputs(
    given: str,
    split: str,
    scratch: Path,
    report: Progress,
    *,
    plain: bool,
    left_out: Sequence[Path],
) -> Inputs:
    """The files of documents behind a path, glob or URL.

    Args:
        given: as the user gave it.
        split: that all their documents belong to; empty: drawn document by document.
        scratch: a folder of the caller's for what is downloaded or unpacked.
        report: told about progress.
        plain: read plain text, each file a document.
        left_out: files of a folder or glob that belong to another split.

    Raises:
        UserError: EXIT_DATA: nothing is there, files are of several kinds, one is empty, or two are
            the same but for their compression.
    """
    if is_glob(given):
        base, paths = matches(given)
        located = Located(given, base, scratch)
        if not paths:
            hint = "Check the pattern; '**' stands for folders, however deep."
            raise DataError("matches no file", where=given, hint=hint)
    else:
        located = locate(given, scratch, report)
        paths = [located.path] if located.path.is_file() else list(walk(located.path))
    others = {os.path.realpath(path) for path in left_out}
    kept = [path for path in paths if os.path.realpath(path) not in others]
    if paths and not kept:
        what = "all its files are given as another split, and none is left to train on"
        raise DataError(what, where=given)
    paths = kept
    kinds = {path: "plain text" if plain else kind_of(path.name) for path in paths}
    found = Inputs(given, [])
    chosen = _one_kind(kinds, given)
    for path in sorted(chosen, key=located.name):
        found.files.append(_input(path, kinds[path] or "plain text", split, located))
    taken = set(chosen)
    if rest := [located.name(path) for path in paths if path not in taken]:
        found.warnings.append(
            f"{len(rest)} files of other kinds were left out: {listed(rest, MOST_SHOWN)}"
        )
    return found


def files_of(given: str) -> list[Path]:
    """The files that a path or glob on this machine names; none for a URL."""
    if is_url(given):
        return []
    path = user_path(given)
    return matches(given)[1] if is_glob(given) else list(walk(path)) if path.is_dir() else [path]


def _one_kind(kinds: dict[Path, Kind | None], given: str) -> list[Path]:
    """The files to read; a UserError unless they are of one kind, and each there once."""
    examples = {kind: path for path, kind in reversed(kinds.items()) if kind}
    plain = next((path for path in kinds if path.suffix.lower() == ".txt"), None)
    if plain is not None and "plain text" not in examples and examples:
        examples["plain text"] = plain
    if len(examples) > 1:
        named = " and ".join(f"{kind} ({path.name})" for kind, path in examples.items())
        hint = f"Name one kind with a quoted glob, such as '{given.rstrip('/')}/*.jsonl'."
        raise DataError(f"holds both {named}", where=given, hint=hint)
    if not examples:
        names = listed([path.name for path in kinds], MOST_SHOWN)
        raise DataError(
            f"none of the files there is JSON lines or parquet: {names}" if kinds else "no files",
            where=given,
            hint="Their names end in .jsonl, .json, .ndjson (also .gz, .bz2, .xz, .zst) or "
            ".parquet; for plain text, each file a document, use --documents.",
        )
    chosen = [path for path, kind in kinds.items() if kind]
    seen: dict[Path, Path] = {}
    for path in chosen:
        bare = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
        if bare in seen:
            raise DataError(
                f"{seen[bare].name} and {path.name} have the same name but for their ending, so "
                "one text would be read twice",
                where=str(path.parent),
                hint="Remove one, or name the files with a quoted glob.",
            )
        seen[bare] = path
    return chosen


def _input(path: Path, kind: Kind, split: str, located: Located) -> Input:
    facts = path.stat()
    where = located.where(path)
    if not path.is_file():
        raise DataError("is not a regular file", where=where)
    if not facts.st_size:
        raise DataError("the file is empty", where=where)
    modified_ns = 0 if path.is_relative_to(located.scratch) else facts.st_mtime_ns
    return Input(located.name(path), where, kind, split, path, facts.st_size, modified_ns)
