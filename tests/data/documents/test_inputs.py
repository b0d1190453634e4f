"""What counts as documents, judging by the names of files."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

from simsmoe_cli.data.documents.inputs import holds_documents, kind_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", "JSON lines"),
        ("a.JSONL.gz", "JSON lines"),
        ("a.ndjson.zst", "JSON lines"),
        ("c4-train.00000-of-01024.json.gz", "JSON lines"),
        ("a.parquet", "parquet"),
        ("a.txt", None),
        ("a.jsonl.zip", None),
        ("jsonl", None),
    ],
)
def test_the_ending_says_the_kind(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("names", "plainly", "by_column"),
    [
        (["a.jsonl"], True, True),
        (["a.parquet", "README.md", "LICENSE"], True, True),
        (["a.jsonl.gz", "b.txt"], True, True),
        (["a.jsonl", "b.py", "c.py"], False, True),
        (["package.json"], False, True),
        (["a.py"], False, False),
        ([], False, False),
    ],
)
def test_a_folder_of_documents_is_told_from_one_of_text(
    tmp_path: Path, names: list[str], plainly: bool, by_column: bool
) -> None:
    for name in names:
        (tmp_path / name).touch()
    for given in (str(tmp_path), f"{tmp_path}/*"):
        assert holds_documents(given, json_files=False) == plainly
        assert holds_documents(given, json_files=True) == by_column


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_an_archive_of_documents_is_told_from_one_of_text(tmp_path: Path, ending: str) -> None:
    for kind, documents in (("jsonl", True), ("txt", False)):
        archive = tmp_path / f"{kind}{ending}"
        names = ["README.md", f"a.{kind}", f"b.{kind}"]
        if ending == ".zip":
            with zipfile.ZipFile(archive, "w") as bundle:
                for name in names:
                    bundle.writestr(name, '{"text": "a"}')
        else:
            with tarfile.open(archive, "w:gz" if ending == ".tar.gz" else "w") as tape:
                for name in names:
                    (tmp_path / name).write_text('{"text": "a"}')
                    tape.add(tmp_path / name, name)
        assert holds_documents(str(archive), json_files=False) == documents
        archive.write_bytes(archive.read_bytes()[:50])  # damaged: whoever reads it says so
        assert not holds_documents(str(archive), json_files=False)


def test_urls_and_globs_are_judged_without_looking() -> None:
    assert holds_documents("https://host/path/a.jsonl.gz?x=1", json_files=False)
    assert not holds_documents("https://host/a.txt", json_files=False)
    assert holds_documents("nowhere/*.parquet", json_files=False)
