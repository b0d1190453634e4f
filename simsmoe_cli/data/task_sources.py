"""From what a user names to labelled rows: a known task in one of its layouts, or one's own tables.

* A folder or archive may hold a task at any depth. Of several places that hold all files of a
  layout, the one with the published train file is taken, else the highest.
* Fewer rows than published are taken for a part of the task, with a warning, if the file begins as
  the published one does. Anything else that differs is an error.
* Tables of one's own: one file, cut later, or a folder with one of each split, known by their
  names: train; valid, validation, val or dev; test.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from simsmoe_cli.data.archives import COMPRESSED, read_chunks
from simsmoe_cli.data.download import Progress
from simsmoe_cli.data.sources import official, reach, unpacked, walk
from simsmoe_cli.data.task_parsers import (
    Columns,
    Row,
    data_error,
    decoded,
    parse_table,
    parse_trees,
    table_kind,
)
from simsmoe_cli.data.task_store import SourceFile
from simsmoe_cli.data.tasks import Layout, TaskFacts, TaskFile
from simsmoe_cli.errors import EXIT_DATA, UserError

SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
ID_RATING = re.compile(r"(\d+)_(\d+)\.txt")
FORMATS = ".csv, .tsv or .jsonl"


@dataclass
class Found:
    """The labelled rows of a source, and what is known of it.

    Attributes:
        given: path, URL or Python version it was read from.
        layout: how it lies there.
        splits: train, and valid and test if there are such; a label is the name of a class.
        sources: what was read.
        files: of each split, as a user knows it.
        whole: false for a part of a known task.
        notes: what is known of the data.
        warnings: what is wrong with this copy.
    """

    given: str
    layout: str
    splits: dict[str, list[Row]] = field(default_factory=dict)
    sources: list[SourceFile] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    whole: bool = True
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Reading:
    """Where a source lies, and what a user calls it."""

    given: str
    path: Path
    scratch: Path

    def where(self, path: Path) -> str:
        """A path as a user knows it, who never sees what is downloaded or unpacked."""
        if not path.is_relative_to(self.scratch):
            return str(path)
        return f"{self.given} ({self.name(path)})"

    def name(self, path: Path) -> str:
        """A path within the source."""
        base = self.path if self.path.is_dir() else self.path.parent
        return path.relative_to(base).as_posix()


def read_known(
    facts: TaskFacts, given: str, scratch: Path, downloads: Path, report: Progress
) -> Found:
    """The rows of a known task.

    Args:
        facts: of the task, which has layouts.
        given: path or URL; empty for where the task officially is.
        scratch: a folder of the caller's for what is downloaded from a given URL or unpacked.
        downloads: where official files are kept.
        report: told about progress.

    Returns:
        Splits train, test where labels are published, and valid where there is one.
    """
    if given:
        reading = _Reading(given, reach(given, scratch, report), scratch)
    else:
        path = _official(facts, scratch, downloads, report)
        reading = _Reading(facts.downloads[0].urls[0], path, scratch)
    layout, files = _find(facts, reading)
    found = Found(reading.given, layout.name)
    for split, file in layout.files.items():
        report(f"read {split}", 0, None)
        path = files[split]
        if layout.kind == "folders":
            rows, digest, content = *_read_folders(path, layout, reading), b""
        else:
            content = b"".join(read_chunks(path))
            digest = hashlib.sha256(content).hexdigest()
            rows = _parse(content, layout, file, reading.where(path))
        warning = _check(rows, digest, content, file, facts, reading.where(path))
        if warning:
            found.whole = False
            found.warnings.append(warning)
        note = "" if file.labelled else "its labels are withheld, so it is not kept"
        name = reading.name(path)
        found.sources.append(SourceFile(file=name, sha256=digest, rows=len(rows), note=note))
        if file.labelled:
            found.splits[split] = _named(rows, layout, facts, reading.where(path))
            found.files[split] = reading.where(path)
    if not layout.official:
        found.notes.append(
            f"read as '{layout.name}', which is not how {facts.name} is published: "
            "the number of rows was checked, the texts could not be"
        )
    return found


def _official(facts: TaskFacts, scratch: Path, downloads: Path, report: Progress) -> Path:
    """The folder or archive content of the official files."""
    if len(facts.downloads) == 1:
        only = facts.downloads[0]
        path = official(facts.name, only.urls, only.known_hash, scratch, downloads, report)
        return unpacked(path, scratch)
    folder = downloads / facts.name
    for file in facts.downloads:
        official(facts.name, file.urls, file.known_hash, scratch, folder, report)
    return folder


def _plain_name(path: Path) -> str:
    """A file's name without the ending of a compressed one."""
    return path.stem if path.suffix in COMPRESSED else path.name


def _find(facts: TaskFacts, reading: _Reading) -> tuple[Layout, dict[str, Path]]:
    """The first layout of which all files are there, and these files."""
    named = reading.path.is_file()
    missing: list[str] = []
    for layout in facts.layouts:
        if named and layout.kind != "folders":
            only = _plain_name(reading.path)
            if only not in {file.name for file in layout.files.values()}:
                continue
        places = _places(layout, reading.path.parent if named else reading.path, deep=not named)
        whole = [place for place in places if len(place) == len(layout.files)]
        if whole:
            return layout, _best(layout, whole)
        for place in places[:1]:
            gone = [file.name for split, file in layout.files.items() if split not in place]
            missing.append(" and ".join(gone))
    names = " or ".join(
        ", ".join(file.name for file in layout.files.values()) for layout in facts.layouts
    )
    what = f"there is no {missing[0]}" if missing else f"no files of {facts.name} there"
    hint = f"{facts.name} is made of {names}, side by side."
    raise UserError(what, where=reading.given, hint=hint, code=EXIT_DATA)


def _places(layout: Layout, base: Path, *, deep: bool) -> list[dict[str, Path]]:
    """For every folder that holds any file of a layout, the highest first: split to path."""
    places: dict[Path, dict[str, Path]] = {}
    if layout.kind == "folders":
        first = next(iter(layout.labels))
        tops = {path.parents[1] for path in base.rglob(first) if path.is_dir()} if deep else set()
        for top in tops:
            places[top] = {
                split: top / file.name
                for split, file in layout.files.items()
                if all((top / file.name / label).is_dir() for label in layout.labels)
            }
    else:
        split_of = {file.name: split for split, file in layout.files.items()}
        paths = walk(base) if deep else (path for path in sorted(base.iterdir()) if path.is_file())
        for path in paths:
            if split := split_of.get(_plain_name(path)):
                places.setdefault(path.parent, {}).setdefault(split, path)
    return [places[top] for top in sorted(places, key=lambda top: (len(top.parts), top))]


def _best(layout: Layout, places: list[dict[str, Path]]) -> dict[str, Path]:
    known = layout.files["train"].sha256
    if len(places) > 1 and known:
        for place in places:
            digest = hashlib.sha256()
            for chunk in read_chunks(place["train"]):
                digest.update(chunk)
            if digest.hexdigest() == known:
                return place
    return places[0]


def _parse(content: bytes, layout: Layout, file: TaskFile, where: str) -> list[Row]:
    if layout.kind == "trees":
        return parse_trees(content, where)
    columns = layout.columns if file.labelled else Columns(layout.columns.text, None)
    return parse_table(content, layout.kind, columns, where)


def _read_folders(folder: Path, layout: Layout, reading: _Reading) -> tuple[list[Row], str]:
    """The texts of SPLIT/LABEL/ID_RATING.txt in the order of label and ID, and a hash of all."""
    rows: list[Row] = []
    digest = hashlib.sha256()
    for label in sorted(layout.labels):
        numbered = [
            (int(match[1]), path)
            for path in (folder / label).iterdir()
            if (match := ID_RATING.fullmatch(path.name))
        ]
        for _, path in sorted(numbered):
            content = path.read_bytes()
            digest.update(f"{label}/{path.name} {len(content)}\n".encode() + content)
            text = decoded(content, reading.where(path))
            if not text.strip():
                raise data_error(reading.where(path), 0, "the text is empty")
            rows.append(Row(text, label, 0))
    if not rows:
        raise data_error(reading.where(folder), 0, "holds no ID_RATING.txt")
    return rows, digest.hexdigest()


def _check(
    rows: list[Row], digest: str, content: bytes, file: TaskFile, facts: TaskFacts, where: str
) -> str:
    """Hold a file against what is known of it: a warning for a part of it, UserError if wrong."""
    name, expected = facts.name, file.rows
    share = f"{len(rows):,} of the {expected:,} rows of {name}"
    per_label = Counter(row.label for row in rows)
    if len(rows) > expected:
        what = f"{len(rows):,} rows, more than the {expected:,} of {name}"
    elif len(rows) < expected and content.startswith(file.begins):
        return (
            f"{where} holds {share}: this is not the whole task, and no result on it is a "
            f"result on {name}"
        )
    elif len(rows) < expected:
        what = f"{share}, but it does not begin as {name} does"
    elif file.sha256 and digest != file.sha256:
        what = f"wrong sha256 {digest}, {name} has {file.sha256}"
    elif facts.balanced and set(per_label.values()) != {expected // 2}:
        counts = ", ".join(f"{count:,} {label}" for label, count in sorted(per_label.items()))
        what = f"{counts}; {name} has {expected // 2:,} of either"
    else:
        return ""
    hint = f"Get {name} again, or prepare this as data of your own, with --label-column."
    raise UserError(what, where=where, hint=hint, code=EXIT_DATA)


def _named(rows: list[Row], layout: Layout, facts: TaskFacts, where: str) -> list[Row]:
    """The rows with their classes' names for labels; those of no class are left out."""
    if not layout.labels:
        return rows
    for row in rows:
        if row.label not in layout.labels:
            known = ", ".join(layout.labels)
            what = f"'{row.label}' is no label of {facts.name}"
            raise data_error(where, row.line, what, f"Its labels are written {known}.")
    named = (Row(row.text, layout.labels[row.label], row.line) for row in rows)
    return [row for row in named if row.label]


def read_tables(given: str, columns: Columns, scratch: Path, report: Progress) -> Found:
    """The rows of a file or folder of one's own: split `train` alone for a file.

    UserError (EXIT_DATA) for what is no table, a folder without a train file, two files of a split.
    """
    reading = _Reading(given, reach(given, scratch, report), scratch)
    found = Found(given, "tables")
    for split, path in _tables(reading).items():
        report(f"read {split}", 0, None)
        where = reading.where(path)
        content = b"".join(read_chunks(path))
        rows = parse_table(content, table_kind(path.name), columns, where)
        digest = hashlib.sha256(content).hexdigest()
        found.sources.append(SourceFile(file=reading.name(path), sha256=digest, rows=len(rows)))
        found.splits[split] = rows
        found.files[split] = where
    return found


def _tables(reading: _Reading) -> dict[str, Path]:
    """Split to file."""
    if reading.path.is_file():
        if not table_kind(reading.path.name):
            raise UserError(
                "is no table by its name",
                where=reading.given,
                hint=f"A classification task is read from {FORMATS} files.",
                code=EXIT_DATA,
            )
        return {"train": reading.path}
    places: dict[Path, dict[str, list[Path]]] = {}
    for path in walk(reading.path):
        stem = PurePath(_plain_name(path)).stem.lower()
        if stem in SPLIT_NAMES and table_kind(path.name):
            place = places.setdefault(path.parent, {})
            place.setdefault(SPLIT_NAMES[stem], []).append(path)
    with_train = [top for top in places if "train" in places[top]]
    if not with_train:
        hint = f"A folder of a task holds a train file, and may hold valid and test: {FORMATS}."
        raise UserError("no train file there", where=reading.given, hint=hint, code=EXIT_DATA)
    place = places[min(with_train, key=lambda top: (len(top.parts), top))]
    for split, paths in place.items():
        if len(paths) > 1:
            what = f"both {paths[0].name} and {paths[1].name} could be the {split} split"
            raise UserError(what, where=reading.given, hint="Leave one.", code=EXIT_DATA)
    return {split: place[split][0] for split in ("train", "valid", "test") if split in place}
