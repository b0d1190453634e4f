"""The run folder: events survive crashes and resumes, and one process trains at a time."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.errors import UserError
from simsmoe_cli.run.folder import SCHEMA, EventLog, RunDir, read_events

ROOT = Path(__file__).resolve().parents[2]


def steps(path: Path) -> list[int]:
    return [event["step"] for event in read_events(path)]


def written(path: Path, count: int) -> EventLog:
    log = EventLog(path)
    for step in range(count):
        log.emit("train", step, loss_nats=float(step))
    return log


def test_an_event_is_one_line_with_its_kind_step_time_and_fields(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    log = EventLog(path)
    log.emit("train", 3, loss_nats=1.5, losses={"balance": 1.0})
    (line,) = path.read_text().splitlines()
    event = json.loads(line)
    assert isinstance(event.pop("time"), float)
    assert event == {
        "schema": SCHEMA,
        "kind": "train",
        "step": 3,
        "loss_nats": 1.5,
        "losses": {"balance": 1.0},
    }
    assert path.read_text().endswith("\n")
    log.close()


def test_numbers_json_cannot_hold_become_null(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.emit(
        "similarity",
        0,
        mean=math.nan,
        grad_norm=math.inf,
        layers=[{"cka": [[1.0, math.nan], [-math.inf, 1.0]]}],
        pair=(math.nan, 2),
    )
    log.close()

    def no_constants(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    event = json.loads(path.read_text(), parse_constant=no_constants)
    assert (event["mean"], event["grad_norm"]) == (None, None)
    assert event["layers"] == [{"cka": [[1.0, None], [None, 1.0]]}]
    assert event["pair"] == [None, 2]


def test_subscribers_get_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.emit("train", 0)
    seen: list[dict[str, Any]] = []
    log.subscribe(seen.append)
    log.emit("train", 1, loss_nats=math.nan)
    log.close()
    assert seen == list(read_events(path))[1:]


@pytest.mark.parametrize(
    "torn", [b'{"schema":1,"kind":"tra', b'{"schema":1,"kind":"train","step":9}']
)
def test_a_torn_last_line_is_not_read(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "events.jsonl"
    written(path, 3).close()
    with open(path, "ab") as file:
        file.write(torn)
    assert steps(path) == [0, 1, 2]


def test_lines_that_are_no_events_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    written(path, 1).close()
    with open(path, "ab") as file:
        file.write(b"\xff\xfe\n\n[1, 2]\n3\n{}\n")
        file.write(b'{"schema":99,"kind":"train","step":7}\n')
        file.write(b'{"schema":1,"kind":"from the future","step":8}\n')
        file.write(b'{"schema":1,"kind":"train","step":9' + b"0" * 5000 + b"}\n")
        file.write(b"[" * 100_000 + b"\n")
    assert steps(path) == [0, 8]


def test_resuming_cuts_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = written(path, 3)
    kept = log.position()
    log.emit("train", 3)
    log.emit("train", 4)
    log.close()
    with open(path, "ab") as file:
        file.write(b'{"torn')
    log = EventLog(path, keep_bytes=kept)
    assert steps(path) == [0, 1, 2]
    log.emit("train", 3)
    assert log.position() == path.stat().st_size
    log.close()
    assert steps(path) == [0, 1, 2, 3]


def test_a_log_that_lost_its_tail_goes_on_with_a_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = written(path, 3)
    kept = log.position()
    log.close()
    path.write_bytes(path.read_bytes()[:-9])
    log = EventLog(path, keep_bytes=kept)
    log.emit("train", 7)
    log.close()
    assert steps(path) == [0, 1, 7]


def test_a_new_run_starts_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    written(path, 3).close()
    EventLog(path).close()
    assert path.read_bytes() == b""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from simsmoe_cli.run.folder import RunDir\n"
        "with RunDir(Path(sys.argv[1])).locked(): print('held', flush=True); input()\n"
    )
    run = RunDir(tmp_path / "mine")
    with subprocess.Popen(
        [sys.executable, "-c", program, str(run.path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError) as caught, run.locked():
            pass
        assert "another process is training" in str(caught.value)
        assert str(run.path) in str(caught.value)
        other.kill()
        other.wait()
    with run.locked():
        assert run.path.is_dir()


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "mine")
    with pytest.raises(ZeroDivisionError), run.locked():
        raise ZeroDivisionError
    with run.locked():
        pass
