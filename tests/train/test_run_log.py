"""Events of a training wait until its run folder may be written to, and lose nothing meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.run.event_log import read_events
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.run_log import RunLog


def messages(run: RunDir) -> list[str]:
    return [event["message"] for event in read_events(run.events) if event["kind"] == "warning"]


def test_what_was_held_is_written_first(tmp_path: Path) -> None:
    run, told = RunDir(tmp_path / "run"), list[dict[str, Any]]()
    log = RunLog(told.append)
    log.warn(0, "before")
    assert not log.is_open
    assert not run.path.exists()
    assert log.open(run, keep=None)
    log.warn(1, "after")
    log.close()
    assert messages(run) == ["before", "after"]
    assert [event["message"] for event in told] == ["before", "after"]


def test_a_resumed_run_keeps_the_events_up_to_its_checkpoint(tmp_path: Path) -> None:
    run, log = RunDir(tmp_path / "run"), RunLog()
    log.open(run, keep=None)
    log.warn(1, "kept")
    position = log.written.position()
    log.warn(2, "of a later step")
    log.close()

    resumed = RunLog()
    assert resumed.open(run, keep=position)
    resumed.warn(2, "again")
    resumed.close()
    assert messages(run) == ["kept", "again"]

    shorter = RunLog()
    assert not shorter.open(run, keep=10 * position)
    shorter.close()


def test_a_run_that_ends_early_says_so_unless_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, log = RunDir(tmp_path / "run"), RunLog()
    log.leave(0, "failed", "before the folder was opened")  # nothing to write to, and no error
    log.open(run, keep=None)
    log.leave(3, "stopped", "SIGTERM")
    (event,) = read_events(run.events)
    assert (event["kind"], event["step"]) == ("run_finished", 3)
    assert event["status"] == "stopped"

    def full(event: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log.written, "emit", full)
    log.leave(4, "failed", "the disk is full")
    log.close()
