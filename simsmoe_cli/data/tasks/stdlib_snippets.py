"""pystdlib-packages: which top-level package of Python's standard library is a snippet from?

A snippet is SNIPPET_BYTES bytes of a file, or a few fewer where a character would be torn; snippets
do not overlap, and what is left at a file's end is not used. Files, not snippets, are split:
those of a package, in the order of the SHA-256 of their paths, go to test and then to validation
as long as these hold at most MOST_OUT of its snippets and have not yet reached ENOUGH_OUT, and to
train otherwise. A class is a package of which each split gets a file, with at least
FEWEST_SNIPPETS snippets in all.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from simsmoe_cli.data.corpora.facts import PYSTDLIB
from simsmoe_cli.data.corpora.sources import resolve
from simsmoe_cli.data.io.download import Progress
from simsmoe_cli.data.tasks.found import Found
from simsmoe_cli.data.tasks.parsers import Row
from simsmoe_cli.data.tasks.store import SourceFile
from simsmoe_cli.data.tokenizers.base import character_cut
from simsmoe_cli.errors import DataError, counted

SNIPPET_BYTES = 512
FEWEST_SNIPPETS = 200
ENOUGH_OUT = 0.10
MOST_OUT = 0.15

Files = dict[str, list[Row]]


def read_packages(given: str, scratch: Path, downloads: Path, report: Progress) -> Found:
    """The snippets of the running Python's library, or of a folder said to be one.

    DataError when fewer than two packages are large enough.
    """
    source = resolve(PYSTDLIB, given, scratch, downloads, report)
    found = Found(source.given, "packages", whole=source.whole, warnings=source.warnings)
    digest = hashlib.sha256()
    packages: dict[str, Files] = {}
    not_text: list[str] = []
    for part in sorted(source.parts, key=lambda part: part.name):
        package, inside, _ = part.name.partition("/")
        if not inside:
            continue
        content = part.path.read_bytes()
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            not_text.append(part.name)
            continue
        digest.update(f"{part.name} {len(content)}\n".encode() + content)
        if rows := snippets(content, package):
            packages.setdefault(package, {})[part.name] = rows
    dealt = {name: deal(files) for name, files in packages.items() if _large(files)}
    classes = [name for name in sorted(dealt) if all(dealt[name].values())]
    if len(classes) < 2:
        raise DataError(
            f"{len(classes)} packages with {FEWEST_SNIPPETS} snippets of {SNIPPET_BYTES} bytes "
            "in three files or more, but a task needs two classes",
            where=source.given,
            hint="Name the standard library's folder with --source.",
        )
    found.splits = {
        split: [row for name in classes for row in dealt[name][split]]
        for split in ("train", "valid", "test")
    }
    found.files = dict.fromkeys(found.splits, source.given)
    total = sum(map(len, found.splits.values()))
    found.sources.append(
        SourceFile(file="packages of the library", sha256=digest.hexdigest(), rows=total)
    )
    if not_text:
        shown = ", ".join(not_text[:3]) + (", ..." if len(not_text) > 3 else "")
        found.notes.append(f"{counted(len(not_text), 'file')} not in UTF-8 left out: {shown}")
    return found


def snippets(content: bytes, label: str) -> list[Row]:
    """The snippets of a UTF-8 file that are not blank; `line` is that of their first byte."""
    rows: list[Row] = []
    start, line = 0, 1
    while start + SNIPPET_BYTES <= len(content):
        block = content[start : start + SNIPPET_BYTES]
        if start + SNIPPET_BYTES < len(content) and content[start + SNIPPET_BYTES] & 0xC0 == 0x80:
            block = block[: character_cut(block)]
        text = block.decode("utf-8")
        if text.strip():
            rows.append(Row(text, label, line))
        start += len(block)
        line += block.count(b"\n")
    return rows


def deal(files: Files) -> dict[str, list[Row]]:
    """The snippets of one package by split."""
    total = sum(map(len, files.values()))
    dealt: dict[str, list[Row]] = {"train": [], "valid": [], "test": []}
    for name in sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest()):
        rows = files[name]
        split = "train"
        for out in ("test", "valid"):
            held = len(dealt[out])
            if held < ENOUGH_OUT * total and held + len(rows) <= MOST_OUT * total:
                split = out
                break
        dealt[split] += rows
    return dealt


def _large(files: Files) -> bool:
    return sum(map(len, files.values())) >= FEWEST_SNIPPETS
