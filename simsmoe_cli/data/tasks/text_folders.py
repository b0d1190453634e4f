"""Tasks of one file for each text, SPLIT/LABEL/ID_RATING.txt, as IMDB's aclImdb is.

An archive of such texts is read without unpacking it to disk, where it would be a hundred thousand
files to write, open and remove again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from simsmoe_cli.data.io.archives import read_members
from simsmoe_cli.data.tasks.facts import Layout
from simsmoe_cli.data.tasks.parsers import Row, data_error, decoded

ENTRY = re.compile(r"(?P<top>.*/|)(?P<split>[^/]+)/(?P<label>[^/]+)/(?P<file>\d+_\d+\.txt)")

# LABEL/ID_RATING.txt to content
Texts = dict[str, bytes]


def archived_texts(archive: Path, layout: Layout) -> dict[str, tuple[str, Texts]]:
    """The texts of an archive by split, each with the name of its folder in the archive."""
    splits = {file.name: split for split, file in layout.files.items()}

    def wanted(name: str) -> bool:
        entry = ENTRY.fullmatch(name)
        return bool(entry and entry["split"] in splits and entry["label"] in layout.labels)

    found: dict[str, tuple[str, Texts]] = {}
    for name, content in read_members(archive, wanted):
        entry = ENTRY.fullmatch(name)
        assert entry
        folder = entry["top"] + entry["split"]
        _, texts = found.setdefault(splits[entry["split"]], (folder, {}))
        texts[f"{entry['label']}/{entry['file']}"] = content
    return found


def texts_on_disk(folder: Path, layout: Layout) -> Texts:
    """The texts of a split's folder."""
    return {
        f"{label}/{path.name}": path.read_bytes()
        for label in layout.labels
        for path in sorted((folder / label).iterdir())
        if path.is_file() and ENTRY.fullmatch(f"{folder.name}/{label}/{path.name}")
    }


def folder_rows(texts: Mapping[str, bytes], where: str) -> tuple[list[Row], str]:
    """The rows of a split, labelled as their folders are called, and a hash of all its files."""
    digest = hashlib.sha256()
    rows: list[Row] = []
    for name in sorted(texts):
        digest.update(f"{name} {len(texts[name])}\n".encode() + texts[name])
        text = decoded(texts[name], f"{where}/{name}")
        if not text.strip():
            raise data_error(f"{where}/{name}", 0, "the text is empty")
        rows.append(Row(text, name.partition("/")[0], 0))
    if not rows:
        raise data_error(where, 0, "holds no text named ID_RATING.txt")
    return rows, digest.hexdigest()
