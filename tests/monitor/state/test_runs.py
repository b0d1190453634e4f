"""The list of runs, and which run a name means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from simsmoe_cli.monitor.state.runs import RunSummary, find_runs
from simsmoe_cli.run.event_log import EventLog
from tests.monitor.made_run import BEGAN, STEP_S, write_run


def only(runs_dir: Path, now: float) -> RunSummary:
    (run,) = find_runs(runs_dir, now)
    return run


def test_no_folder_and_no_runs_are_an_empty_list(tmp_path: Path) -> None:
    assert find_runs(tmp_path / "none") == []
    (tmp_path / "notes.txt").write_text("no run")
    (tmp_path / "empty").mkdir()
    assert find_runs(tmp_path) == []


def test_a_folder_that_cannot_be_read_hides_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "locked", "z"):
        write_run(tmp_path / name, until=500)
    exists = Path.exists

    def refused(path: Path) -> bool:
        if path.parent.name == "locked":
            raise PermissionError(13, "Permission denied")
        return exists(path)

    monkeypatch.setattr(Path, "exists", refused)
    assert {run.name for run in find_runs(tmp_path)} == {"a", "z"}


def test_runs_are_listed_with_the_newest_first(tmp_path: Path) -> None:
    for age, name in enumerate(["young", "middle", "old"]):
        folder = write_run(tmp_path / name, until=500)
        os.utime(folder / "events.jsonl", (1e9 - 100 * age, 1e9 - 100 * age))
    assert [run.name for run in find_runs(tmp_path)] == ["young", "middle", "old"]


def test_a_row_says_what_the_events_say(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    run = only(tmp_path, BEGAN)
    assert (run.name, run.path, run.state) == ("run", tmp_path / "run", "finished")
    assert (run.step, run.total_steps) == (2000, 2000)
    assert (run.recipe_name, run.router, run.similarity) == ("quickstart", "smoe", "calibrated")
    assert run.score_name == "BPC"
    assert run.score == pytest.approx(2.2, abs=0.2)
    assert 0 < run.cka < 0.7


def test_whether_a_run_lives_follows_from_the_age_of_its_events(tmp_path: Path) -> None:
    write_run(tmp_path / "run", until=1000, finished=False)
    last = BEGAN + STEP_S * 1000
    assert only(tmp_path, last + 60).state == "training"
    assert only(tmp_path, last + 86400).state == "stale"
    log = EventLog(
        tmp_path / "run" / "events.jsonl", (tmp_path / "run/events.jsonl").stat().st_size
    )
    log.emit({"kind": "run_finished", "step": 1000, "status": "stopped", "reason": "SIGTERM"})
    log.close()
    assert only(tmp_path, last + 86400).state == "stopped"


def test_a_run_without_events_waits(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("name: x\n")
    run = only(tmp_path, BEGAN)
    assert (run.state, run.step, run.total_steps) == ("waiting", 0, None)
    assert run.modified == (tmp_path / "run").stat().st_mtime


@pytest.mark.parametrize("text", [b"", b"\xff\xfe\n{}\n[]\n", b'{"kind":"train"', b"\n\n\n"])
def test_broken_events_do_not_hide_a_run(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.jsonl").write_bytes(text)
    assert only(tmp_path, BEGAN).name == "run"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "events.jsonl")
    assert only(tmp_path, BEGAN).state == "waiting"


def test_a_score_is_found_behind_a_long_probe(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    log = EventLog(path)
    log.emit(
        {
            "kind": "run_started",
            "step": 0,
            "total_steps": 10,
            "unit": "byte",
            "recipe": {"name": "r"},
        }
    )
    log.emit({"kind": "train", "step": 5, "loss_nats": 1.0, "bpc": 1.5})
    matrix = [[0.123456] * 64 for _ in range(64)]
    layers = [{"layer": n, "cka": matrix, "mean": 0.25, "shared": matrix} for n in range(3)]
    log.emit({"kind": "similarity", "step": 5, "layers": layers, "measure": "cka"})
    log.close()
    assert path.stat().st_size > 150_000
    run = only(tmp_path, BEGAN)
    assert (run.step, run.total_steps, run.score, run.cka) == (5, 10, 1.5, 0.25)


def test_the_list_follows_what_changes(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    log = EventLog(path)
    log.emit({"kind": "train", "step": 1, "loss_nats": 1.0})
    assert only(tmp_path, BEGAN).step == 1
    log.emit({"kind": "train", "step": 2, "loss_nats": 1.0})
    assert only(tmp_path, BEGAN).step == 2
    log.close()
