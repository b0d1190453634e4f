"""Tables of one's own: files, folders and archives of them, and their columns."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from simsmoe_cli.data.tasks.prepare import prepare_task
from tests.data.tasks.given import failure, numbered, table, texts


def test_files_of_a_folder_are_its_splits(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    rows = numbered("train", {"1": 20, "10": 20, "9": 20})
    table(folder / "TRAIN.tsv", rows)
    (folder / "validation.csv").write_text("label,text\n10,one\n")
    (folder / "test.jsonl").write_text('{"text": "two", "label": 9}\n')
    table(folder / "more/train.tsv", numbered("deeper", {"a": 1}))
    (folder / "README.md").write_text("of no matter")
    task = prepare_task(str(folder), tmp_path / "task")
    assert task.labels == ["1", "9", "10"]
    assert texts(task, "train") == {text for text, _ in rows}
    assert [(e.text, e.label) for e in task.split("valid")] == [("one", 2)]
    assert [(e.text, e.label) for e in task.split("test")] == [("two", 1)]
    assert not any(split.drawn for split in task.manifest.splits.values())


def test_an_archive_of_tables_is_a_folder_of_them(tmp_path: Path) -> None:
    content = "text,label\n" + "".join(f"{n},{n % 2}\n" for n in range(40))
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as bundle:
        bundle.writestr("inside/train.csv", content)
        bundle.writestr("inside/test.csv", "text,label\nx,2\n")
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as bundle:
        bundle.writestr("inside/train.csv", content)
    task = prepare_task(str(tmp_path / "good.zip"), tmp_path / "task")
    assert sum(split.examples for split in task.manifest.splits.values()) == 40
    assert [source.file for source in task.manifest.sources] == ["inside/train.csv"]
    error = failure(tmp_path / "own.zip", tmp_path / "none")
    assert error.where == f"{tmp_path / 'own.zip'} (inside/test.csv), line 2"


def test_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("what,why\n" + "".join(f"text {n},{n % 2}\n" for n in range(40)))
    task = prepare_task(str(path), tmp_path / "t", text_column="what", label_column="why")
    assert (task.manifest.text_column, task.manifest.label_column) == ("what", "why")
    assert "no column 'text'" in failure(path, tmp_path / "u").what
    assert (
        "Did you mean 'why'?"
        in failure(path, tmp_path / "u", text_column="what", label_column="wy").hint
    )


@pytest.mark.parametrize(
    ("files", "where", "what"),
    [
        (
            {"train.tsv": [("x", "a"), ("y", "a")]},
            "train.tsv",
            "every example of train has the label 'a'",
        ),
        (
            {"train.tsv": [("x", "a"), ("y", "b")] * 9, "test.tsv": [("z", "a"), ("z", "c")]},
            "test.tsv, line 3",
            "label 'c' of test never occurs in train",
        ),
        (
            {"train.tsv": [("x", "a"), ("y", "b")], "test.tsv": [("z", "a")]},
            "train.tsv",
            "2 examples are too few to draw a valid split from",
        ),
        ({"test.tsv": [("x", "a")]}, "", "no train file there"),
        (
            {"valid.tsv": [], "dev.tsv": [], "train.tsv": []},
            "",
            "both dev.tsv and valid.tsv could be the valid split",
        ),
        ({"train.tsv": []}, "train.tsv", "holds no examples"),
    ],
)
def test_what_is_no_task_is_an_error(
    tmp_path: Path, files: dict[str, list[tuple[str, str]]], where: str, what: str
) -> None:
    for name, rows in files.items():
        table(tmp_path / "own" / name, rows)
    error = failure(tmp_path / "own", tmp_path / "task")
    assert (error.where, error.what) == (str(tmp_path / "own" / where), what)
    assert not (tmp_path / "task").exists()


def test_a_file_that_is_no_table_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("text,label\n")
    assert (
        "is not a table, judging by its name" in failure(tmp_path / "own.txt", tmp_path / "t").what
    )
    assert "no such file or folder" in failure(tmp_path / "on.txt", tmp_path / "t").what


def test_a_fifo_in_a_folder_of_tables_is_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    os.mkfifo(tmp_path / "mine/train.csv")
    assert "is not a regular file" in failure(tmp_path / "mine", tmp_path / "t").what
