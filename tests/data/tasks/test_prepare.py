"""Preparing tasks: which splits there are, what is drawn, and what is there already."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.tasks.parsers import Row
from simsmoe_cli.data.tasks.prepare import draw, prepare_task
from simsmoe_cli.errors import EXIT_USAGE, UserError
from tests.data.tasks.given import failure, numbered, table, texts


def test_one_file_gives_all_three_splits(tmp_path: Path) -> None:
    rows = numbered("text", {"b": 100, "a": 50, "c": 1})
    task = prepare_task(str(table(tmp_path / "own.tsv", rows)), tmp_path / "own")
    splits = task.manifest.splits
    assert (task.built, task.reported, task.labels) == (True, "test", ["a", "b", "c"])
    assert {name: split.per_label for name, split in splits.items()} == {
        "train": [41, 81, 1],
        "valid": [4, 9, 0],
        "test": [5, 10, 0],
    }
    assert splits["train"].drawn == ""
    assert splits["valid"].drawn == splits["test"].drawn != ""
    read = [
        (example.text, task.labels[example.label])
        for name in splits
        for example in task.split(name)
    ]
    assert sorted(read) == sorted(rows)


def test_without_a_test_file_validation_is_reported_and_another_is_drawn(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    table(folder / "train.tsv", numbered("train", {"a": 30, "b": 30}))
    table(folder / "dev.tsv", numbered("dev", {"a": 5, "b": 5}))
    task = prepare_task(str(folder), tmp_path / "task")
    assert task.reported == "dev"
    assert {name: split.examples for name, split in task.manifest.splits.items()} == {
        "train": 54,
        "valid": 6,
        "dev": 10,
    }
    assert all(text.startswith("dev") for text in texts(task, "dev"))


@pytest.mark.parametrize("numbers", [[40, 3, 2, 1], [15, 14]])
def test_a_tenth_of_every_label_is_drawn_but_never_all(numbers: list[int]) -> None:
    rows = [Row(f"{label} {n}", str(label), 0) for label, m in enumerate(numbers) for n in range(m)]
    stay, drawn = draw(rows, "valid")
    assert sorted(row.text for row in stay + drawn) == sorted(row.text for row in rows)
    counts = Counter(row.label for row in drawn)
    expected = {40: 4, 15: 2, 14: 1, 3: 1, 2: 1, 1: 0}
    assert [counts[str(label)] for label in range(len(numbers))] == [expected[m] for m in numbers]


def test_what_is_drawn_depends_on_texts_alone() -> None:
    rows = [Row(f"text {n}", str(n % 3), 0) for n in range(300)]
    drawn = {row.text for row in draw(rows, "valid")[1]}
    assert {row.text for row in draw(rows[::-1], "valid")[1]} == drawn
    assert {row.text for row in draw(rows, "test")[1]} != drawn
    # The least SHA-256 of "valid:text 0", "valid:text 3" and so on; results depend on the draw.
    least = [60, 120, 123, 129, 186, 213, 225, 231, 279, 297]
    assert sorted(int(text[5:]) for text in drawn if int(text[5:]) % 3 == 0) == least


def test_examples_are_stored_in_an_order_of_their_own(tmp_path: Path) -> None:
    rows = numbered("text", {"a": 200, "b": 200})
    one = prepare_task(str(table(tmp_path / "one.tsv", rows)), tmp_path / "1")
    other = prepare_task(str(table(tmp_path / "other.tsv", rows[::-1])), tmp_path / "2")
    assert one.manifest.fingerprint == other.manifest.fingerprint
    first = Counter(example.label for example in one.split("train")[:80])
    assert min(first.values()) > 20


def test_texts_that_also_occur_in_train_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    train = numbered("train", {"a": 30, "b": 30})
    table(folder / "train.tsv", [*train, train[0], ("both", "a"), ("both", "b")])
    table(folder / "valid.tsv", [("other", "a"), train[1]])
    table(folder / "test.tsv", [(f" {train[0][0]} ", "a"), ("both", "a"), ("own", "b")])
    splits = prepare_task(str(folder), tmp_path / "task").manifest.splits
    assert {name: split.also_in_train for name, split in splits.items()} == {
        "train": 0,
        "valid": 1,
        "test": 2,
    }


def test_preparing_again_changes_nothing(tmp_path: Path) -> None:
    path = table(tmp_path / "own.tsv", numbered("text", {"a": 30, "b": 30}))
    out = tmp_path / "task"
    prepare_task(str(path), out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert not prepare_task(str(path), out).built
    table(path, numbered("text", {"a": 30, "b": 31}))
    error = failure(path, out)
    assert "already prepared otherwise" in error.what
    assert "--force" in error.hint
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    task = prepare_task(str(path), out, force=True)
    assert task.built
    assert sum(split.examples for split in task.manifest.splits.values()) == 61


def test_a_place_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    path = table(tmp_path / "own.tsv", numbered("text", {"a": 30, "b": 30}))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter").write_text("dear")
    for force in (False, True):
        with pytest.raises(UserError, match="is not a prepared task, so it is left alone"):
            prepare_task(str(path), tmp_path / "mine", force=force)
    assert (tmp_path / "mine/letter").read_text() == "dear"
    prepare_task(str(path), tmp_path / "task")
    error = failure(path, tmp_path / "task/train.jsonl")
    assert "left alone" in error.what


def test_a_corpus_and_a_task_do_not_replace_each_other(corpus_dir: Path, tmp_path: Path) -> None:
    path = table(tmp_path / "own.tsv", numbered("text", {"a": 30, "b": 30}))
    failure(path, corpus_dir / "sources")
    TokenStore.open(corpus_dir / "sources")


def test_contradictions_are_errors_of_usage(tmp_path: Path) -> None:
    path = table(tmp_path / "own.tsv", numbered("text", {"a": 30, "b": 30}))
    error = failure(Path("sst2"), tmp_path / "t", EXIT_USAGE, text_column="sentence")
    assert error.where == "--text-column"
    assert failure(path, tmp_path / "t", EXIT_USAGE, source="x").where == "--source"
    error = failure(path, tmp_path / "t", EXIT_USAGE, label_column="text")
    assert error.where == "--label-column"
