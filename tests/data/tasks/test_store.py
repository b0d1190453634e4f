"""A prepared task is found, opened if its manifest vouches for it, and refused if damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data.tasks.prepare import prepare_task
from simsmoe_cli.data.tasks.store import TASK, Task, open_task
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.files.untrusted import sealed
from tests.data.tasks.given import numbered, numbers, table


def test_a_prepared_task_is_found_by_name_or_folder(tmp_path: Path) -> None:
    path = table(tmp_path / "own.tsv", numbered("text", {"a": 30, "b": 30}))
    prepare_task(str(path), tmp_path / "data/reviews")
    assert open_task("reviews", tmp_path / "data").name == "reviews"
    assert open_task(tmp_path / "data/reviews", tmp_path / "none").name == "reviews"
    with pytest.raises(UserError) as caught:
        TASK.find("revews", tmp_path / "data")
    assert (caught.value.code, caught.value.what) == (EXIT_DATA, "task 'revews' is not prepared")
    assert "Did you mean 'reviews'?" in caught.value.hint
    with pytest.raises(UserError) as caught:
        TASK.find("sst2", tmp_path / "data")
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
    with pytest.raises(UserError, match="does not have as many examples of each label"):
        Task.open(own_task).split("test")


def test_a_task_of_the_version_before_is_the_same_task(own_task: Path) -> None:
    before = Task.open(own_task)
    content = numbers(own_task)
    del content["checksum"]
    (own_task / "task.json").write_text(json.dumps({**content, "schema_version": 1}))
    old = Task.open(own_task)
    assert old.manifest.fingerprint == before.manifest.fingerprint
    assert old.split("train") == before.split("train")
