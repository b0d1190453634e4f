"""Events survive crashes and resumes, and every reader sees what the classes of the kinds say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simsmoe_cli.run.event_log import SCHEMA, EventLog, NotAnEvent, parse_event, read_events
from simsmoe_cli.run.events import Event


def steps(path: Path) -> list[int]:
    return [event["step"] for event in read_events(path)]


def written(path: Path, count: int) -> EventLog:
    log = EventLog(path)
    for step in range(count):
        log.emit({"kind": "train", "step": step, "loss_nats": float(step)})
    return log


def test_an_event_is_one_line_with_its_kind_step_time_and_fields(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    log = EventLog(path)
    log.emit({"kind": "train", "step": 3, "loss_nats": 1.5, "losses": {"balance": 1.0}})
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
        {
            "kind": "similarity",
            "step": 0,
            "mean": math.nan,
            "grad_norm": math.inf,
            "layers": [{"cka": [[1.0, math.nan], [-math.inf, 1.0]]}],
            "pair": (math.nan, 2),
        }
    )
    log.close()

    def no_constants(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    event = json.loads(path.read_text(), parse_constant=no_constants)
    assert (event["mean"], event["grad_norm"]) == (None, None)
    assert event["layers"] == [{"cka": [[1.0, None], [None, 1.0]]}]
    assert event["pair"] == [None, 2]


@pytest.mark.parametrize("kind", ["train", "router", "eval"])
def test_frequent_events_have_the_digits_of_fp32_and_others_all(kind: Any, tmp_path: Path) -> None:
    """Read as fp32 every number is the one that was given, and it is as short as can be."""
    values = [1 / 3, 2e-7 / 3, 123456.789012345, 1e-3, 0.0, -2.5e20 / 3, 1e300 / 3]
    log = EventLog(tmp_path / "events.jsonl")
    log.emit({"kind": kind, "step": 0, "losses": {"all": values}})
    log.close()
    line = (tmp_path / "events.jsonl").read_text()
    written = json.loads(line)["losses"]["all"]
    if kind == "eval":
        assert written == values
        return
    assert np.array_equal(np.float32(written[:-1]), np.float32(values[:-1]))
    assert written[-1] == values[-1]  # no fp32 number
    assert "0.33333334,6.6666665e-08,123456.79,0.001,0.0," in line


def test_subscribers_get_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.emit({"kind": "train", "step": 0})
    seen: list[dict[str, Any]] = []
    log.subscribe(seen.append)
    log.emit({"kind": "train", "step": 1, "loss_nats": math.nan})
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
    log.emit({"kind": "train", "step": 3})
    log.emit({"kind": "train", "step": 4})
    log.close()
    with open(path, "ab") as file:
        file.write(b'{"torn')
    log = EventLog(path, keep_bytes=kept)
    assert steps(path) == [0, 1, 2]
    log.emit({"kind": "train", "step": 3})
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
    log.emit({"kind": "train", "step": 7})
    log.close()
    assert steps(path) == [0, 1, 7]


def test_a_new_run_starts_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    written(path, 3).close()
    EventLog(path).close()
    assert path.read_bytes() == b""


def parsed(**fields: Any) -> Event:
    return parse_event(json.dumps({"schema": SCHEMA, "step": 3} | fields).encode())


def test_a_value_that_is_not_what_its_field_says_is_left_out() -> None:
    assert parsed(kind="train", loss_nats="low", bpc=10**400, lr=0.5, losses=[], tokens=-1) == {
        "schema": SCHEMA,
        "kind": "train",
        "step": 3,
        "lr": 0.5,
    }
    event = parsed(kind="train", loss_nats=None, losses={"z": None, "balance": "x", "k": 2})
    assert event["loss_nats"] is None
    assert event["losses"] == {"z": None, "balance": None, "k": 2.0}


def test_layers_and_experts_that_are_none_are_left_out() -> None:
    layers = [{"layer": 0, "load": [0.5, "x", 1], "dead": [1, -1, True, "x"]}, 3, {"load": []}]
    event = parsed(kind="router", layers=layers)
    assert event["layers"] == [{"layer": 0, "load": [0.5, None, 1.0], "dead": [1]}]


def test_of_a_kind_from_the_future_the_header_is_known() -> None:
    event = parsed(kind="from the future", time=5.0, layers=3)
    assert event == {"schema": SCHEMA, "kind": "from the future", "step": 3, "time": 5.0}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"no json", "broken"),
        (b"[1]", "broken"),
        (b'{"kind":"train"}', "broken"),
        (b'{"kind":"train","step":1.5}', "broken"),
        (b'{"kind":"train","step":true}', "broken"),
        (b'{"kind":["train"],"step":1}', "broken"),
        (b'{"kind":"dream","step":-1}', "broken"),
        (b'{"kind":"train","step":1,"schema":99}', "newer"),
        (b'{"kind":"dream","step":1,"schema":"x"}', "newer"),
        (b'{"kind":"warning","step":1,"message":"' + b"x" * (9 << 20) + b'"}', "long"),
    ],
)
def test_why_a_line_is_not_an_event(line: bytes, why: str) -> None:
    with pytest.raises(NotAnEvent) as caught:
        parse_event(line)
    assert caught.value.why == why
