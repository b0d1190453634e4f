"""Reads the labelled rows of a known task from a user's files, in any of its layouts.

* A folder or archive may hold a task at any depth. If several folders hold all files of a layout,
  the one with the published train file is used, or else the topmost.
* A file with fewer rows than published counts as a part of the task, with a warning, if it begins
  as the published one does. Any other difference is an error.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from simsmoe_cli.data.io.archives import COMPRESSED, is_archive, read_chunks, read_whole
from simsmoe_cli.data.io.download import Progress, fetch_once
from simsmoe_cli.data.io.locate import Located, reach, unpack, walk
from simsmoe_cli.data.prepared import kept
from simsmoe_cli.data.tasks.facts import Layout, TaskFacts, TaskFile
from simsmoe_cli.data.tasks.found import Found
from simsmoe_cli.data.tasks.parsers import (
    Columns,
    Row,
    data_error,
    parse_table,
    parse_trees,
    shown,
)
from simsmoe_cli.data.tasks.store import SourceFile
from simsmoe_cli.data.tasks.text_folders import Texts, archived_texts, folder_rows, texts_on_disk
from simsmoe_cli.errors import DataError


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
    name = given or facts.downloads[0].urls[0]
    path = reach(given, scratch, report) if given else _official(facts, scratch, downloads, report)
    for layout in facts.layouts:
        if layout.kind == "folders" and is_archive(path):
            report("read", 0, None)
            texts = archived_texts(path, layout)
            if len(texts) == len(layout.files):
                return _from_texts(facts, layout, name, texts)
    return _from_files(facts, unpack(name, path, scratch), report)


def _from_texts(
    facts: TaskFacts, layout: Layout, given: str, texts: dict[str, tuple[str, Texts]]
) -> Found:
    """The rows of an archive of a file for each text."""
    found = Found(given, layout.name)
    for split in layout.files:
        folder, contents = texts[split]
        where = f"{given} ({folder})"
        rows, digest = folder_rows(contents, where)
        _take(found, facts, layout, split, rows, (folder, digest), b"", where)
    return found


def _from_files(facts: TaskFacts, located: Located, report: Progress) -> Found:
    """The rows of files or folders on the disk."""
    layout, files = _find(facts, located)
    found = Found(located.given, layout.name)
    for split, file in layout.files.items():
        report(f"read {split}", 0, None)
        where = located.where(files[split])
        if layout.kind == "folders":
            content = b""
            rows, digest = folder_rows(texts_on_disk(files[split], layout), where)
        else:
            content = read_whole(files[split], located.limit)
            digest = hashlib.sha256(content).hexdigest()
            rows = _parse(content, layout, file, where)
        source = (located.name(files[split]), digest)
        _take(found, facts, layout, split, rows, source, content, where)
    if not layout.official:
        found.notes.append(
            f"read as '{layout.name}', which is not how {facts.name} is published: "
            "the number of rows was checked, the texts could not be"
        )
    return found


def _take(
    found: Found,
    facts: TaskFacts,
    layout: Layout,
    split: str,
    rows: list[Row],
    source: tuple[str, str],
    content: bytes,
    where: str,
) -> None:
    """Check the rows of a split against the facts, and add them to what was found.

    Args:
        source: name and sha256.
        content: of the file; nothing for a folder.
        where: the file or folder as a user knows it.
    """
    file = layout.files[split]
    name, digest = source
    if warning := _check(rows, digest, content, file, facts, where):
        found.whole = False
        found.warnings.append(warning)
    note = "" if file.labelled else "its labels are withheld, so it is not kept"
    found.sources.append(SourceFile(file=kept(name), sha256=digest, rows=len(rows), note=note))
    if file.labelled:
        found.splits[split] = _named(rows, layout, facts, where)
        found.files[split] = where


def _official(facts: TaskFacts, scratch: Path, downloads: Path, report: Progress) -> Path:
    """The official archive, or the folder of the official files."""
    if len(facts.downloads) == 1:
        only = facts.downloads[0]
        return fetch_once(facts.name, only.urls, only.known_hash, scratch, downloads, report)
    folder = downloads / facts.name
    for file in facts.downloads:
        fetch_once(facts.name, file.urls, file.known_hash, scratch, folder, report)
    return folder


def plain_name(path: Path) -> str:
    """A file's name without the ending of a compressed one."""
    return path.stem if path.suffix in COMPRESSED else path.name


def _find(facts: TaskFacts, located: Located) -> tuple[Layout, dict[str, Path]]:
    """The first layout of which all files are there, and these files."""
    named = located.path.is_file()
    missing: list[str] = []
    for layout in facts.layouts:
        if named and layout.kind != "folders":
            only = plain_name(located.path)
            if only not in {file.name for file in layout.files.values()}:
                continue
        places = _places(layout, located.path.parent if named else located.path, deep=not named)
        whole = [place for place in places if len(place) == len(layout.files)]
        if whole:
            return layout, _best(layout, whole, located.limit)
        for place in places[:1]:
            gone = [file.name for split, file in layout.files.items() if split not in place]
            missing.append(" and ".join(gone))
    names = " or ".join(
        ", ".join(file.name for file in layout.files.values()) for layout in facts.layouts
    )
    what = f"there is no {missing[0]}" if missing else f"no files of {facts.name} there"
    hint = f"{facts.name} is made of {names}, side by side."
    raise DataError(what, where=located.given, hint=hint)


def _places(layout: Layout, base: Path, *, deep: bool) -> list[dict[str, Path]]:
    """For every folder that holds any file of a layout, the highest first: split to path."""
    places: dict[Path, dict[str, Path]] = {}
    if layout.kind == "folders":
        first = next(iter(layout.labels))
        below = [path for path in base.rglob(first) if path.is_dir()] if deep else []
        tops = {path.parents[1] for path in below if len(path.parents) > 1}  # else above "."
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
            if split := split_of.get(plain_name(path)):
                places.setdefault(path.parent, {}).setdefault(split, path)
    return [places[top] for top in sorted(places, key=lambda top: (len(top.parts), top))]


def _best(layout: Layout, places: list[dict[str, Path]], limit: int | None) -> dict[str, Path]:
    known = layout.files["train"].sha256
    if len(places) > 1 and known:
        for place in places:
            digest = hashlib.sha256()
            for chunk in read_chunks(place["train"], limit):
                digest.update(chunk)
            if digest.hexdigest() == known:
                return place
    return places[0]


def _parse(content: bytes, layout: Layout, file: TaskFile, where: str) -> list[Row]:
    if layout.kind == "trees":
        return parse_trees(content, where)
    columns = layout.columns if file.labelled else Columns(layout.columns.text, None)
    return parse_table(content, layout.kind, columns, where)


def _check(
    rows: list[Row], digest: str, content: bytes, file: TaskFile, facts: TaskFacts, where: str
) -> str:
    """Compare a file with its facts: a warning if it is only a part of it, UserError if it is
    wrong."""
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
    raise DataError(what, where=where, hint=hint)


def _named(rows: list[Row], layout: Layout, facts: TaskFacts, where: str) -> list[Row]:
    """The rows with class names as labels; rows without a class are left out."""
    if not layout.labels:
        return rows
    for row in rows:
        if row.label not in layout.labels:
            known = ", ".join(layout.labels)
            what = f"'{shown(row.label)}' is not a label of {facts.name}"
            raise data_error(where, row.line, what, f"Its labels are written {known}.")
    named = (Row(row.text, layout.labels[row.label], row.line) for row in rows)
    return [row for row in named if row.label]
