"""`simsmoe runs`: the list, and rm, rename and tag."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from simsmoe_cli.cli import main
from simsmoe_cli.run.folder import RunDir
from tests.compare.made_runs import made_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with the runs plain, sim and test-1."""
    for name, bpc in (("plain", 2.5), ("sim", 2.25), ("test-1", 3.0)):
        made_run(tmp_path / "runs" / name, bpc=bpc)
    return tmp_path / "runs"


def names(runs: Path) -> list[str]:
    return sorted(path.name for path in runs.iterdir())


def test_the_list_has_state_score_similarity_and_size(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "sim" / "weights").write_bytes(bytes(5 << 20))
    assert main.run(["runs", "--runs-dir", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line.split() for line in lines if line.startswith("sim "))
    assert row[:7] == ["sim", "finished", "100/100", "test", "2.250", "BPC", "0.500"]
    assert lines[-1] == "3 runs, 5 MiB"
    assert main.run(["runs", "--runs-dir", str(runs), "--json"]) == 0
    found = {run["name"]: run for run in json.loads(capsys.readouterr().out)}
    assert found.keys() == {"plain", "sim", "test-1"}
    files = [path for path in (runs / "sim").rglob("*") if path.is_file()]
    assert found["sim"]["bytes"] == sum(path.stat().st_size for path in files)
    assert (found["sim"]["state"], found["sim"]["cka"]) == ("finished", pytest.approx(0.5))


def test_an_empty_folder_says_how_to_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["runs", "--runs-dir", str(tmp_path)]) == 0
    assert "simsmoe pretrain --recipe quickstart" in capsys.readouterr().out


def test_rename_keeps_everything_and_refuses_a_taken_name(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = (runs / "sim" / "events.jsonl").read_bytes()
    assert main.run(["runs", "rename", "sim", "best", "--runs-dir", str(runs)]) == 0
    assert names(runs) == ["best", "plain", "test-1"]
    assert (runs / "best" / "events.jsonl").read_bytes() == events
    assert main.run(["runs", "rename", "best", "plain", "--runs-dir", str(runs)]) == 2
    assert "this name is taken" in capsys.readouterr().err
    assert main.run(["runs", "rename", "best", "../out", "--runs-dir", str(runs)]) == 2
    assert names(runs) == ["best", "plain", "test-1"]


def test_rm_asks_first(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remove = ["runs", "--runs-dir", str(runs), "rm", "test-*", "sim"]
    assert main.run(remove) == 2
    assert "Add --yes" in capsys.readouterr().err
    for answer, left in (("n\n", ["plain", "sim", "test-1"]), ("y\n", ["plain"])):
        terminal = io.StringIO(answer)
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", terminal)
        assert main.run(remove) == 0
        assert names(runs) == left


def test_rm_takes_no_run_that_trains_and_nothing_that_is_no_run(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "notes").mkdir()
    with RunDir(runs / "sim").locked():
        assert main.run(["runs", "rm", "sim", "--yes", "--runs-dir", str(runs)]) == 2
    assert "another process is training in this run folder" in capsys.readouterr().err
    for given, expected in (
        ("notes", "no run in this folder"),
        ("no*", "no run fits"),
        ("smi", "'sim'"),
    ):
        assert main.run(["runs", "rm", given, "--yes", "--runs-dir", str(runs)]) == 3
        assert expected in capsys.readouterr().err
    assert names(runs) == ["notes", "plain", "sim", "test-1"]


def test_tags_find_runs_again(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = ["--runs-dir", str(runs)]
    assert main.run(["runs", "tag", "sim", "paper", "lr 1e-3", *there]) == 0
    assert main.run(["runs", "tag", "plain", "paper", *there]) == 0
    assert main.run(["runs", "tag", "plain", "--remove", "paper", *there]) == 0
    assert main.run(["runs", "tag", "plain", "--remove", "paper", *there]) == 2
    assert "this run has no tag 'paper'" in capsys.readouterr().err
    assert main.run(["runs", "tag", "plain", "a,b", *there]) == 2
    capsys.readouterr()
    assert main.run(["runs", "--tag", "paper", "--json", *there]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["tags"]) == ("sim", ["lr 1e-3", "paper"])


def test_an_option_of_the_list_is_not_silently_ignored(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["runs", "--tag", "x", "rm", "sim", "--yes", "--runs-dir", str(runs)]) == 2
    assert "--tag is for the list of runs" in capsys.readouterr().err
    assert "sim" in names(runs)


def test_the_folder_before_a_command_counts_more_than_the_environment(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    made_run(other / "sim", bpc=2.0)
    monkeypatch.setenv("SIMSMOE_RUNS", str(other))
    before = ["runs", "--runs-dir", str(runs)]
    assert main.run([*before, "tag", "sim", "here"]) == 0
    assert main.run([*before, "rename", "sim", "new"]) == 0
    assert main.run([*before, "rm", "new", "--yes"]) == 0
    assert names(runs) == ["plain", "test-1"]
    assert main.run(["runs", "rm", "sim", "--yes"]) == 0
    assert names(other) == []
    made_run(other / "sim", bpc=2.0)
    assert main.run([*before, "rm", "sim", "--yes", "--runs-dir", str(other)]) == 0
    assert names(other) == []


def test_a_project_with_a_folder_named_best_is_not_deleted(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "project/best").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for words in (["rm", "plain", "project", "--yes"], ["rename", "project", "new"]):
        assert main.run(["runs", *words, "--runs-dir", str(runs)]) == 3
        assert "may not be a run" in capsys.readouterr().err
    assert (tmp_path / "project/best").is_dir()
    assert names(runs) == ["plain", "sim", "test-1"]
