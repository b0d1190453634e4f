"""Tables of one's own: splits, labels, what is drawn, what is kept, and what is an error."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.tasks.parsers import Row
from simsmoe_cli.data.tasks.prepare import draw, prepare_task
from simsmoe_cli.data.tasks.store import Task, find_task, open_task
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError
from simsmoe_cli.files.untrusted import sealed


def table(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return path


def numbered(begin: str, counts: dict[str, int]) -> list[tuple[str, str]]:
    return [
        (f"{begin} {label} {number}", label)
        for label, count in counts.items()
        for number in range(count)
    ]


def texts(task: Task, split: str) -> set[str]:
    return {example.text for example in task.split(split)}


def failure(given: Path, out: Path, code: int = EXIT_DATA, **asked: str) -> UserError:
    with pytest.raises(UserError) as caught:
        prepare_task(str(given), out, **asked)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert not list(out.parent.glob(f".{out.name}.partial*"))
    return caught.value


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
        with pytest.raises(UserError, match="is no prepared task, so it is left alone"):
            prepare_task(str(path), tmp_path / "mine", force=force)
    assert (tmp_path / "mine/letter").read_text() == "dear"
    prepare_task(str(path), tmp_path / "task")
    error = failure(path, tmp_path / "task/train.jsonl")
    assert "left alone" in error.what


def test_a_corpus_and_a_task_do_not_replace_each_other(corpus_dir: Path, tmp_path: Path) -> None:
    path = table(tmp_path / "own.tsv", numbered("text", {"a": 30, "b": 30}))
    failure(path, corpus_dir / "sources")
    TokenStore.open(corpus_dir / "sources")


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
    assert "is no table by its name" in failure(tmp_path / "own.txt", tmp_path / "t").what
    assert "no such file or folder" in failure(tmp_path / "on.txt", tmp_path / "t").what


def test_contradictions_are_errors_of_usage(tmp_path: Path) -> None:
    path = table(tmp_path / "own.tsv", numbered("text", {"a": 30, "b": 30}))
    error = failure(Path("sst2"), tmp_path / "t", EXIT_USAGE, text_column="sentence")
    assert error.where == "--text-column"
    assert failure(path, tmp_path / "t", EXIT_USAGE, source="x").where == "--source"
    error = failure(path, tmp_path / "t", EXIT_USAGE, label_column="text")
    assert error.where == "--label-column"


def test_a_prepared_task_is_found_by_name_or_folder(tmp_path: Path) -> None:
    path = table(tmp_path / "own.tsv", numbered("text", {"a": 30, "b": 30}))
    prepare_task(str(path), tmp_path / "data/reviews")
    assert open_task("reviews", tmp_path / "data").name == "reviews"
    assert open_task(tmp_path / "data/reviews", tmp_path / "none").name == "reviews"
    with pytest.raises(UserError) as caught:
        find_task("revews", tmp_path / "data")
    assert (caught.value.code, caught.value.what) == (EXIT_DATA, "task 'revews' is not prepared")
    assert "Did you mean 'reviews'?" in caught.value.hint
    with pytest.raises(UserError) as caught:
        find_task("sst2", tmp_path / "data")
    assert "simsmoe prepare-data sst2. Prepared: reviews." in caught.value.hint


def test_a_damaged_task_is_not_opened(tmp_path: Path) -> None:
    path = table(tmp_path / "own.tsv", numbered("text", {"a": 30, "b": 30}))
    out = tmp_path / "task"
    task = prepare_task(str(path), out)
    manifest = (out / "task.json").read_text()
    with pytest.raises(UserError, match="no split 'dev'"):
        task.split("dev")
    content = (out / "test.jsonl").read_bytes()
    (out / "test.jsonl").write_bytes(content.replace(b"text a", b"text b", 1))
    with pytest.raises(UserError, match=r"test\.jsonl has sha256"):
        Task.open(out).split("test")
    (out / "test.jsonl").write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"test\.jsonl has \d+ bytes"):
        Task.open(out)
    (out / "test.jsonl").unlink()
    with pytest.raises(UserError, match=r"test\.jsonl is missing"):
        Task.open(out)
    for content_now, said in (
        (json.dumps({**json.loads(manifest), "schema_version": 3}), "schema 3, not 2"),
        (json.dumps({"schema_version": 1}), "name: field required"),
        (json.dumps({"schema_version": 2}), "no checksum"),
        (json.dumps({**json.loads(manifest), "reported": "valid"}), "checksum"),
        ("[]", "schema None"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deep"),
    ):
        (out / "task.json").write_text(content_now)
        with pytest.raises(UserError, match=said) as caught:
            Task.open(out)
        assert caught.value.code == EXIT_DATA
    (out / "task.json").unlink()
    with pytest.raises(UserError, match="no prepared task"):
        Task.open(out)


def numbers(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "task.json").read_text())
    return content


def reseal(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest and give it the right checksum."""
    content = numbers(path)
    del content["checksum"]
    change(content)
    (path / "task.json").write_text(json.dumps(sealed(content)))


@pytest.fixture
def own_task(tmp_path: Path) -> Path:
    path = table(tmp_path / "own.tsv", numbered("text", {"a": 30, "b": 30}))
    prepare_task(str(path), tmp_path / "task")
    return tmp_path / "task"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda all: all["splits"]["test"].update(file="../own.tsv"), "the file of test"),
        (lambda all: all["splits"]["test"].update(file="/etc/passwd"), "the file of test"),
        (lambda all: all["splits"].pop("test"), "splits"),
        (lambda all: all.update(splits={}), "splits"),
        (lambda all: all["splits"]["test"].update(examples=0), "splits.test.examples"),
        (lambda all: all["splits"]["test"].update(examples="1"), "splits.test.examples"),
        (lambda all: all["splits"]["test"].update(per_label=[1]), "counts 1 of 2"),
        (lambda all: all["splits"]["test"].update(per_label=[1, 1]), "another number"),
        (lambda all: all["splits"]["test"].update(per_label=[-1, 7]), "per_label.0"),
        (lambda all: all.update(labels=["a"]), "labels"),
        (lambda all: all.update(labels=["a", "a"]), "two labels have one name"),
        (lambda all: all.update(labels=["a", 1]), "labels.1"),
        (lambda all: all.update(labels={"a": 1}), "labels"),
        (lambda all: all.update(reported="train"), "reported"),
        (lambda all: all.update(name="\x1b[2J"), "name"),
        (lambda all: all.update(more=1), "more"),
    ],
)
def test_a_manifest_of_a_task_that_contradicts_itself_is_refused(
    own_task: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    reseal(own_task, change)
    with pytest.raises(UserError) as caught:
        Task.open(own_task)
    assert said in caught.value.what
    assert caught.value.code == EXIT_DATA
    assert "--force" in caught.value.hint


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("[]", "row 1"),
        ("null", "row 1"),
        ("{", "is not JSON"),
        ("[" * 100_000, "nested too deep"),
        ('{"text": "a"}', "label: field required"),
        ('{"text": 1, "label": 0}', "text"),
        ('{"text": "a", "label": "0"}', "label"),
        ('{"text": "a", "label": true}', "label"),
        ('{"text": "a", "label": 2}', "label 2 of 2 classes"),
        ('{"text": "a", "label": -1}', "label -1 of 2 classes"),
        ('{"text": "a", "label": 0, "label": 1}', "'label' twice"),
        ('{"text": "\\ud800", "label": 0}', "half a character"),
        ("", "row 1"),
    ],
)
def test_a_row_of_a_task_that_is_none_is_refused(own_task: Path, row: str, said: str) -> None:
    file = own_task / "test.jsonl"
    lines = file.read_text().splitlines()
    lines[0] = row
    content = "".join(f"{line}\n" for line in lines).encode()
    file.write_bytes(content)
    facts = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "bytes": 6}
    reseal(own_task, lambda all: all["splits"]["test"].update(facts))
    with pytest.raises(UserError) as caught:
        Task.open(own_task).split("test")
    assert said in caught.value.what
    assert caught.value.code == EXIT_DATA


def test_examples_that_are_not_as_many_as_counted_are_refused(own_task: Path) -> None:
    file = own_task / "test.jsonl"
    content = file.read_bytes().replace(b'"label": 0', b'"label": 1', 1)
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    reseal(own_task, lambda all: all["splits"]["test"].update(sha256=digest))
    with pytest.raises(UserError, match="not as many examples of each label"):
        Task.open(own_task).split("test")


def test_a_task_of_the_version_before_is_the_same_task(own_task: Path) -> None:
    before = Task.open(own_task)
    content = numbers(own_task)
    del content["checksum"]
    (own_task / "task.json").write_text(json.dumps({**content, "schema_version": 1}))
    old = Task.open(own_task)
    assert old.manifest.fingerprint == before.manifest.fingerprint
    assert old.split("train") == before.split("train")
