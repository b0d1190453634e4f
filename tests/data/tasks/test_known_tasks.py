"""Known tasks in their published layouts, in parts, and damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.data.tasks import facts as tasks
from simsmoe_cli.data.tasks.facts import Download
from simsmoe_cli.data.tasks.prepare import prepare_task
from simsmoe_cli.data.tasks.store import Task
from simsmoe_cli.errors import UserError
from tests.data.tasks.reviews import failure, reviews

SST5_ROOTS = {
    "train": [1092, 2218, 1624, 2322, 1288],
    "valid": [139, 289, 229, 279, 165],
    "test": [279, 633, 389, 510, 399],
}


def zipped(archive: Path, folder: Path, inside: str) -> Path:
    """An archive of a folder's files below `inside`, with what an archive of a Mac adds."""
    with zipfile.ZipFile(archive, "w") as bundle:
        for path in sorted(folder.iterdir()):
            if path.is_file():
                bundle.write(path, f"{inside}/{path.name}")
        bundle.writestr(f"__MACOSX/{inside}/._train.tsv", b"\0\5\26\7")
    return archive


def per_label(task: Task) -> dict[str, list[int]]:
    return {name: split.per_label for name, split in task.manifest.splits.items()}


def test_sst2_of_glue_reports_dev_and_draws_validation_from_train(
    data: Path, tmp_path: Path
) -> None:
    archive = zipped(tmp_path / "SST-2.zip", data / "sst2/glue", "SST-2")
    task = prepare_task("sst2", tmp_path / "sst2", source=str(archive))
    manifest = task.manifest
    assert (manifest.labels, manifest.reported) == (["negative", "positive"], "dev")
    assert list(manifest.splits) == ["train", "valid", "dev"]
    assert manifest.splits["dev"].per_label == [428, 444]
    assert manifest.splits["valid"].per_label == [2978, 3757]
    assert manifest.splits["train"].per_label == [29780 - 2978, 37569 - 3757]
    assert (manifest.whole, manifest.warnings, manifest.layout) == (True, [], "GLUE")
    assert [(source.file, source.rows) for source in manifest.sources] == [
        ("SST-2/train.tsv", 67_349),
        ("SST-2/dev.tsv", 872),
        ("SST-2/test.tsv", 1_821),
    ]
    assert "withheld" in manifest.sources[2].note
    content = (data / "sst2/glue/train.tsv").read_bytes()
    assert manifest.sources[0].sha256 == hashlib.sha256(content).hexdigest()
    dev = {example.text: example.label for example in task.split("dev")}
    assert dev["it 's a charming and often affecting journey . "] == 1
    assert dev["unflinchingly bleak and desperate "] == 0


def test_glue_is_found_in_a_folder_that_holds_the_sentences_as_well(
    data: Path, tmp_path: Path
) -> None:
    glue = prepare_task("sst2", tmp_path / "a", source=str(data / "sst2"))
    sentences = prepare_task("sst2-trees", tmp_path / "b", source=str(data / "sst2"))
    assert (glue.manifest.layout, glue.manifest.whole) == ("GLUE", True)
    assert (sentences.manifest.layout, sentences.manifest.whole) == ("sentences", True)
    assert any("not how sst2-trees is published" in note for note in sentences.manifest.notes)


def test_the_trees_give_sst5_and_the_sentences_of_sst2(data: Path, tmp_path: Path) -> None:
    archive = str(zipped(tmp_path / "trees.zip", data / "sst5/trees", "trees"))
    five = prepare_task("sst5", tmp_path / "five", source=archive)
    assert per_label(five) == SST5_ROOTS
    assert five.labels == ["very negative", "negative", "neutral", "positive", "very positive"]
    two = prepare_task("sst2-trees", tmp_path / "two", source=archive)
    assert per_label(two) == {
        split: [count[0] + count[1], count[3] + count[4]] for split, count in SST5_ROOTS.items()
    }
    assert [split.examples for split in two.manifest.splits.values()] == [6_920, 872, 1_821]
    assert two.labels == ["negative", "positive"]
    for task in (five, two):
        assert (task.reported, task.manifest.whole, task.manifest.warnings) == ("test", True, [])
        assert not any(split.drawn for split in task.manifest.splits.values())
    # The tables of the same sentences hold the same examples.
    tables = [
        prepare_task("sst5", tmp_path / "five-tables", source=str(data / "sst5/train.tsv")),
        prepare_task("sst2-trees", tmp_path / "two-tables", source=str(data / "sst2/train.tsv")),
    ]
    assert [task.manifest.layout for task in tables] == ["sentences", "sentences"]
    assert [task.manifest.fingerprint for task in tables] == [
        five.manifest.fingerprint,
        two.manifest.fingerprint,
    ]


def test_banking77_has_its_classes_line_ends_in_texts_and_six_texts_twice(
    data: Path, tmp_path: Path
) -> None:
    task = prepare_task("banking77", tmp_path / "banking77", source=str(data / "banking77"))
    manifest = task.manifest
    categories = json.loads((data / "banking77/categories.json").read_text())
    assert len(task.labels) == 77
    assert set(task.labels) == set(categories)
    sizes = {name: split.examples for name, split in manifest.splits.items()}
    assert sizes["train"] + sizes["valid"] == 10_003
    assert sizes["test"] == 3_080
    assert set(manifest.splits["test"].per_label) == {40}
    assert manifest.splits["test"].also_in_train == 6
    texts = [example.text for split in ("train", "valid") for example in task.split(split)]
    assert sum("\n" in text for text in texts) == 10
    test = {example.text: task.labels[example.label] for example in task.split("test")}
    assert test["How do I locate my card?"] == "card_arrival"
    assert test["I still have not received my new card, I ordered over a week ago."] == (
        "card_arrival"
    )
    assert (manifest.whole, manifest.warnings, task.reported) == (True, [], "test")


def test_imdb_is_balanced_and_has_texts_in_both_halves(data: Path, tmp_path: Path) -> None:
    task = prepare_task("imdb", tmp_path / "imdb", source=str(data / "imdb"))
    manifest = task.manifest
    assert per_label(task) == {
        "train": [11_250, 11_250],
        "valid": [1_250, 1_250],
        "test": [12_500, 12_500],
    }
    assert [source.rows for source in manifest.sources] == [25_000, 25_000]
    assert manifest.splits["test"].also_in_train == 123
    assert (manifest.whole, manifest.warnings, task.reported) == (True, [], "test")
    labels = {example.text: task.labels[example.label] for example in task.split("test")}
    for _, review in reviews(data, "test", 1000):
        assert labels[review["text"]] == ("negative", "positive")[review["label"]]


def test_a_part_of_a_task_is_prepared_with_a_warning(some_reviews: Path, tmp_path: Path) -> None:
    folders = prepare_task("imdb", tmp_path / "a", source=str(some_reviews / "aclImdb"))
    lines = prepare_task("imdb", tmp_path / "b", source=str(some_reviews / "lines"))
    for task in (folders, lines):
        assert not task.manifest.whole
        assert len(task.manifest.warnings) == 2
        assert "holds 250 of the 25,000 rows of imdb" in task.manifest.warnings[0]
        assert "not the whole task" in task.manifest.warnings[0]
        assert per_label(task)["test"] == [125, 125]
    assert folders.manifest.fingerprint == lines.manifest.fingerprint


def test_a_folder_inside_that_of_a_task_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in ("neg", "pos"):
        (tmp_path / "aclImdb/train" / label).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "aclImdb/train")
    assert "no files of imdb there" in failure("imdb", Path(), tmp_path / "out")


def test_the_beginning_of_a_published_file_is_a_part_of_the_task(
    data: Path, tmp_path: Path
) -> None:
    part = tmp_path / "part"
    part.mkdir()
    for split, rows in (("train", 5000), ("dev", 872), ("test", 10)):
        lines = (data / f"sst2/glue/{split}.tsv").read_bytes().splitlines(keepends=True)
        (part / f"{split}.tsv").write_bytes(b"".join(lines[: rows + 1]))
    manifest = prepare_task("sst2", tmp_path / "sst2", source=str(part)).manifest
    assert not manifest.whole
    assert [warning.split(" holds ")[1][:18] for warning in manifest.warnings] == [
        "5,000 of the 67,34",
        "10 of the 1,821 ro",
    ]


def test_one_task_is_not_taken_for_another(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "it does not begin as sst2 does" in failure("sst2", data / "sst5", out)
    assert "2 classes in train, but sst5 has 5" in failure("sst5", data / "sst2", out)
    said = failure("sst2-trees", data / "sst5/train.tsv", out)
    assert "8,544 rows, more than the 6,920 of sst2-trees" in said
    assert "there is no test.csv" in failure("banking77", _only(data, tmp_path), out)
    assert "no files of imdb there" in failure("imdb", data / "sst2", out)


def _only(data: Path, tmp_path: Path) -> Path:
    """A folder with no more of BANKING77 than its train file."""
    (tmp_path / "only").mkdir()
    shutil.copyfile(data / "banking77/train.csv", tmp_path / "only/train.csv")
    return tmp_path / "only"


def test_a_changed_file_is_an_error_that_says_so(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    folder.mkdir()
    for name in ("train.csv", "test.csv"):
        shutil.copyfile(data / "banking77" / name, folder / name)
    content = (folder / "test.csv").read_bytes()
    (folder / "test.csv").write_bytes(content.replace(b"How do I locate", b"How can I find", 1))
    said = failure("banking77", folder, tmp_path / "out")
    assert "test.csv: wrong sha256" in said
    assert hashlib.sha256(content).hexdigest() in said
    (folder / "test.csv").write_bytes(content + b"One more?,card_arrival\r\n")
    said = failure("banking77", folder, tmp_path / "out")
    assert "3,081 rows, more than the 3,080 of banking77" in said


def test_a_label_that_is_not_the_tasks_names_its_line(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sentences"
    folder.mkdir()
    for name in ("train.tsv", "dev.tsv", "test.tsv"):
        content = (data / "sst5" / name).read_text()
        (folder / name).write_text(content)
    lines = (folder / "train.tsv").read_text().split("\n")
    lines[4] = lines[4][:-1] + "5"
    (folder / "train.tsv").write_text("\n".join(lines))
    said = failure("sst5", folder, tmp_path / "out")
    assert "train.tsv, line 5: '5' is not a label of sst5" in said


@pytest.fixture
def served(data: Path, tmp_path: Path, host: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A host of the trees' archive and BANKING77's files, known to the tasks."""
    archive = zipped(tmp_path / "trees.zip", data / "sst5/trees", "trees").read_bytes()
    host.files["/trees.zip"] = archive
    known = [Download((f"{host.url}/trees.zip",), "sha256:" + hashlib.sha256(archive).hexdigest())]
    files = []
    for name, file in zip(("train.csv", "test.csv"), tasks.BANKING77.downloads, strict=True):
        host.files[f"/{name}"] = (data / "banking77" / name).read_bytes()
        files.append(Download((f"{host.url}/{name}",), file.known_hash))
    monkeypatch.setattr(tasks, "SST5", replace(tasks.SST5, downloads=tuple(known)))
    monkeypatch.setattr(tasks, "BANKING77", replace(tasks.BANKING77, downloads=tuple(files)))
    return host


def test_an_official_file_is_downloaded_once_and_kept(served: Any, tmp_path: Path) -> None:
    task = prepare_task("sst5", tmp_path / "data/sst5")
    assert task.built
    assert per_label(task) == SST5_ROOTS
    assert task.manifest.given == f"{served.url}/trees.zip"
    assert not prepare_task("sst5", tmp_path / "data/sst5").built
    assert prepare_task("sst5", tmp_path / "data/sst5", force=True).built
    assert served.asked == ["/trees.zip"]
    banking = prepare_task("banking77", tmp_path / "data/banking77")
    assert banking.manifest.whole
    assert served.asked == ["/trees.zip", "/train.csv", "/test.csv"]
    left = {path.name for path in (tmp_path / "data").iterdir() if not path.name.endswith(".lock")}
    assert left == {".downloads", "sst5", "banking77"}


def test_a_download_of_wrong_content_is_refused(served: Any, tmp_path: Path) -> None:
    served.files["/test.csv"] += b"x"
    with pytest.raises(UserError, match=r"test\.csv: wrong sha256") as caught:
        prepare_task("banking77", tmp_path / "banking77")
    assert "simsmoe prepare-data banking77 --source PATH" in caught.value.hint
    assert not (tmp_path / "banking77").exists()


def test_a_url_may_be_named_as_the_source(served: Any, tmp_path: Path) -> None:
    task = prepare_task("sst2-trees", tmp_path / "t", source=f"{served.url}/trees.zip")
    assert task.manifest.whole
    with pytest.raises(UserError, match="404"):
        prepare_task("sst2-trees", tmp_path / "u", source=f"{served.url}/none.zip")
