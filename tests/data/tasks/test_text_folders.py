"""Tasks of one file for each text, in a folder or an archive."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from simsmoe_cli.data.tasks import facts as tasks
from simsmoe_cli.data.tasks.facts import TaskFacts
from simsmoe_cli.data.tasks.prepare import prepare_task
from tests.data.tasks.reviews import failure


def imdb_of(rows: int) -> TaskFacts:
    """IMDB, had it been published with so many rows a file."""
    layouts = tuple(
        replace(layout, files={s: replace(file, rows=rows) for s, file in layout.files.items()})
        for layout in tasks.IMDB.layouts
    )
    return replace(tasks.IMDB, layouts=layouts)


def test_imdb_is_read_from_the_files_of_its_archive(
    some_reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "IMDB", imdb_of(250))
    archive = tmp_path / "aclImdb_v1.tar.gz"
    with tarfile.open(archive, "w:gz") as tape:
        tape.add(some_reviews / "aclImdb", "aclImdb")
        for name in ("README", "train/unsup/0_0.txt", "train/urls_pos.txt", "train/pos/._0_9.txt"):
            tape.addfile(tarfile.TarInfo(f"aclImdb/{name}"))
    manifest = prepare_task("imdb", tmp_path / "imdb", source=str(archive)).manifest
    assert (manifest.whole, manifest.warnings, manifest.notes) == (True, [], [])
    assert manifest.layout == "aclImdb"
    assert [(source.file, source.rows) for source in manifest.sources] == [
        ("aclImdb/train", 250),
        ("aclImdb/test", 250),
    ]
    lines = prepare_task("imdb", tmp_path / "lines", source=str(some_reviews / "lines")).manifest
    assert manifest.fingerprint == lines.fingerprint


def test_unbalanced_reviews_are_not_imdb(
    some_reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "IMDB", imdb_of(250))
    path = next((some_reviews / "aclImdb/test/pos").iterdir())
    path.rename(some_reviews / "aclImdb/test/neg/77777_1.txt")
    said = failure("imdb", some_reviews / "aclImdb", tmp_path / "out")
    assert "aclImdb/test: 126 neg, 124 pos; imdb has 125 of either" in said


def test_an_empty_review_is_named(some_reviews: Path, tmp_path: Path) -> None:
    (some_reviews / "aclImdb/test/neg/77777_1.txt").write_text(" \n")
    said = failure("imdb", some_reviews / "aclImdb", tmp_path / "out")
    assert "aclImdb/test/neg/77777_1.txt: the text is empty" in said
