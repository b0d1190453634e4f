"""Events of a training: held until the run folder may be written to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simsmoe_cli.run.events import read_events
from simsmoe_cli.train.run_log import RunLog


def messages(path: Path) -> list[Any]:
    return [event["message"] for event in read_events(path)]


def test_events_are_held_until_the_log_is_open(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    log, path = RunLog(heard.append), tmp_path / "events.jsonl"
    log.warn(0, "first", "second")
    assert not log.is_open
    assert not path.exists()
    assert heard == []
    assert log.open(path, None)
    log.warn(1, "third")
    log.close()
    assert messages(path) == ["first", "second", "third"]
    assert [event["message"] for event in heard] == ["first", "second", "third"]


def test_opening_says_whether_all_kept_bytes_are_there(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    first = RunLog()
    first.open(path, None)
    first.warn(1, "kept")
    kept = first.written.position()
    first.warn(2, "cut")
    first.close()
    resumed = RunLog()
    assert resumed.open(path, kept)
    resumed.close()
    assert messages(path) == ["kept"]
    shorter = RunLog()
    assert not shorter.open(path, kept + 100)
    shorter.close()


def test_a_run_that_was_never_its_own_says_nothing(tmp_path: Path) -> None:
    log = RunLog()
    log.leave(0, "failed", "before the first step")
    log.close()
    assert list(tmp_path.iterdir()) == []
