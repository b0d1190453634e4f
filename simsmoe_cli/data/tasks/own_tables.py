"""Reads the labelled rows of a user's own tables: CSV, TSV or JSON lines.

One file, cut into splits later, or a folder with one for each split, known by their names: train;
valid, validation, val or dev; test.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePath

from simsmoe_cli.data.io.archives import read_whole
from simsmoe_cli.data.io.download import Progress
from simsmoe_cli.data.io.locate import Located, locate, walk
from simsmoe_cli.data.prepared import kept
from simsmoe_cli.data.tasks.found import Found
from simsmoe_cli.data.tasks.known_tasks import plain_name
from simsmoe_cli.data.tasks.parsers import Columns, parse_table, table_kind
from simsmoe_cli.data.tasks.store import SourceFile
from simsmoe_cli.errors import DataError

SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
FORMATS = ".csv, .tsv or .jsonl"


def read_tables(given: str, columns: Columns, scratch: Path, report: Progress) -> Found:
    """The rows of a user's file or folder; of a file, only the split `train`.

    DataError for a file that is not a table, a folder without a train file, and two
    files of one split.
    """
    located = locate(given, scratch, report)
    found = Found(given, "tables")
    for split, path in _tables(located).items():
        report(f"read {split}", 0, None)
        where = located.where(path)
        content = read_whole(path, located.limit)
        rows = parse_table(content, table_kind(path.name), columns, where)
        digest = hashlib.sha256(content).hexdigest()
        found.sources.append(
            SourceFile(file=kept(located.name(path)), sha256=digest, rows=len(rows))
        )
        found.splits[split] = rows
        found.files[split] = where
    return found


def _tables(located: Located) -> dict[str, Path]:
    """Split to file."""
    if located.path.is_file():
        if not table_kind(located.path.name):
            raise DataError(
                "is not a table, judging by its name",
                where=located.given,
                hint=f"A classification task is read from {FORMATS} files.",
            )
        return {"train": located.path}
    splits_of: dict[Path, dict[str, list[Path]]] = {}
    for path in walk(located.path):
        stem = PurePath(plain_name(path)).stem.lower()
        if stem in SPLIT_NAMES and table_kind(path.name):
            splits = splits_of.setdefault(path.parent, {})
            splits.setdefault(SPLIT_NAMES[stem], []).append(path)
    with_train = [top for top in splits_of if "train" in splits_of[top]]
    if not with_train:
        hint = f"A folder of a task holds a train file, and may hold valid and test: {FORMATS}."
        raise DataError("no train file there", where=located.given, hint=hint)
    splits = splits_of[min(with_train, key=lambda top: (len(top.parts), top))]
    for split, paths in splits.items():
        if len(paths) > 1:
            what = f"both {paths[0].name} and {paths[1].name} could be the {split} split"
            raise DataError(what, where=located.given, hint="Leave one.")
    return {split: splits[split][0] for split in ("train", "valid", "test") if split in splits}
