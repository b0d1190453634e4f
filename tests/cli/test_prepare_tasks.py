"""`simsmoe prepare-data` of classification tasks, as it is typed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from simsmoe_cli.cli import main
from simsmoe_cli.data.tasks.store import Task, open_task
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory but for a table, own.csv."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIMSMOE_DATA", raising=False)
    rows = "".join(f"text {number},{number % 4}\n" for number in range(200))
    (tmp_path / "own.csv").write_text("text,label\n" + rows)
    return tmp_path


def test_the_summary_says_what_was_made_and_what_to_do_next(
    shared: Path, here: Path, simsmoe: Command
) -> None:
    source = str(shared / "data/banking77")
    done = simsmoe("prepare-data", "banking77", "--source", source)
    # Where it takes longer than some seconds, progress is said, with the time.
    said = [line for line in done.stderr.splitlines() if not re.search(r": .*\d:\d\d", line)]
    assert (done.returncode, said) == (0, [])
    lines = done.stdout.splitlines()
    assert lines[0] == "Prepared banking77 in data/banking77"
    splits = open_task("banking77", here / "data").manifest.splits
    assert sum(splits[name].examples for name in ("train", "valid")) == 10_003
    for split, info in splits.items():
        assert [line.split()[:2] for line in lines if line.startswith(f"{split} ")] == [
            [split, f"{info.examples:,}"]
        ]
    about = {line.split()[0]: " ".join(line.split()[4:]) for line in lines if "%" in line}
    assert about["test"] == "reported"
    assert about["valid"].startswith("drawn: 10% of each label of train")
    assert "note: also in train: 6 texts of test" in lines
    assert any(line.startswith("77 labels: ") for line in lines)
    assert lines[-1] == "Next: simsmoe finetune --from RUN --task banking77"
    again = simsmoe("prepare-data", "banking77", "--source", source)
    assert again.stdout.startswith("Already prepared, nothing changed: banking77 in data/banking77")


def test_a_part_of_a_task_is_prepared_with_a_warning(
    shared: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "part").mkdir()
    for name in ("train.csv", "test.csv"):
        content = (shared / "data/banking77" / name).read_bytes()
        (here / "part" / name).write_bytes(content[: content.rindex(b"\n", 0, -1) + 1])
    assert main.run(["prepare-data", "banking77", "--source", "part", "--name", "some"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Prepared some in data/some\n")
    assert "warning: part/train.csv holds 10,002 of the 10,003 rows of banking77" in out
    assert "not the whole task" in out


def test_json_is_one_object(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for built in (True, False):
        assert main.run(["prepare-data", "own.csv", "--label-column", "label", "--json"]) == 0
        printed = capsys.readouterr()
        facts = json.loads(printed.out)
        assert printed.err == ""
        assert (facts["path"], facts["built"], facts["reported"]) == ("data/own", built, "test")
        assert sum(split["examples"] for split in facts["splits"].values()) == 200
        assert facts["labels"] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("arguments", "place", "next_words"),
    [
        (["--name", "mine"], "data/mine", "--task mine"),
        (["--out", "else/where"], "else/where", "--task else/where"),
        (["--data-dir", "there"], "there/own", "--task own --data-dir there"),
    ],
)
def test_the_place_can_be_chosen(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    place: str,
    next_words: str,
) -> None:
    assert main.run(["prepare-data", "own.csv", "--text-column", "text", *arguments]) == 0
    assert Task.open(here / place).name == Path(place).name
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"Next: simsmoe finetune --from RUN {next_words}"


@pytest.mark.parametrize("given", ["own.csv", "folder"])
def test_a_table_read_as_text_says_how_to_make_it_a_task(
    here: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    (here / "folder").mkdir()
    (here / "folder/train.csv").write_bytes((here / "own.csv").read_bytes())
    assert main.run(["prepare-data", given, "--name", "text"]) == 0
    assert "note: read as text; with --text-column NAME --label-column NAME it is a" in (
        capsys.readouterr().out
    )


def test_labels_cannot_drive_the_terminal(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"text {number},[red]\x1b]0;{number % 2}\n" for number in range(40))
    (here / "odd.csv").write_text("text,label\n" + rows)
    assert main.run(["prepare-data", "odd.csv", "--label-column", "label"]) == 0
    assert r"2 labels: [red]\x1b]0;0, [red]\x1b]0;1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["sst3"], EXIT_USAGE, "Did you mean 'sst5'?"),
        (["own.csv", "--label-column", "lable"], EXIT_DATA, "Did you mean 'label'?"),
        (["on.csv", "--label-column", "label"], EXIT_DATA, "Did you mean 'own.csv'?"),
        (["sst2", "--label-column", "label"], EXIT_USAGE, "the columns of sst2 are known"),
        (["enwik8", "--text-column", "text"], EXIT_USAGE, "enwik8 is a corpus"),
        (["sst2", "--tokenizer", "words"], EXIT_USAGE, "--tokenizer: a task is tokenized with"),
        (["sst2", "--vocab", "bytes256"], EXIT_USAGE, "--vocab: "),
        (["sst2", "--vocab-from", "x"], EXIT_USAGE, "--vocab-from: "),
        (["sst2", "--sp-model", "bpe"], EXIT_USAGE, "--sp-model: "),
        (["sst2", "--vocab-size", "9"], EXIT_USAGE, "--vocab-size: "),
        (["imdb", "--source", "nowhere"], EXIT_DATA, "no such file or folder"),
        (["own.csv", "--label-column", "text"], EXIT_USAGE, "cannot be one column"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    named: str,
) -> None:
    assert main.run(["prepare-data", *arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("simsmoe: error: ")
    assert printed.err.count("\n") == 1
    assert named in printed.err
    assert not list(here.glob("data/[!.]*"))
