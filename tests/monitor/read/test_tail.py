"""Following a file through everything that happens to files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simsmoe_cli.monitor.read import tail as module
from simsmoe_cli.monitor.read.tail import Batch, Tail
from simsmoe_cli.run import event_log
from simsmoe_cli.run.event_log import LONG_LINE, SCHEMA, EventLog
from tests.monitor.made_run import event


def line(step: int, kind: str = "train", **fields: Any) -> bytes:
    made = {"schema": SCHEMA, "kind": kind, "step": step, "time": 1000.0 + step} | fields
    return json.dumps(made, separators=(",", ":")).encode() + b"\n"


def steps(batch: Batch) -> list[int]:
    return [event["step"] for event in batch.events]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_new_lines_come_once_and_in_order(path: Path) -> None:
    tail = Tail(path)
    path.write_bytes(line(1) + line(2))
    assert steps(tail.poll()) == [1, 2]
    assert tail.poll() == Batch()
    with open(path, "ab") as file:
        file.write(line(3))
    batch = tail.poll()
    assert steps(batch) == [3]
    assert not batch.restarted
    assert not batch.more


def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    tail = Tail(path)
    assert tail.poll() == Batch(missing=True)
    path.parent.mkdir()
    path.write_bytes(b"")
    assert tail.poll() == Batch()
    path.write_bytes(line(1))
    assert tail.poll() == Batch(events=[json.loads(line(1))])


def test_a_torn_line_waits_for_its_end(path: Path) -> None:
    tail = Tail(path)
    whole = line(2)
    path.write_bytes(line(1) + whole[:-9])
    assert steps(tail.poll()) == [1]
    assert tail.poll().events == []
    path.write_bytes(line(1) + whole[:-1])
    assert tail.poll().events == []
    path.write_bytes(line(1) + whole)
    assert steps(tail.poll()) == [2]


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 4000), max_size=12), limit=st.integers(1, 3000))
def test_however_the_file_grows_every_event_comes_once(
    cuts: list[int], limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("tail") / "events.jsonl"
    text = b"".join(line(step, note="ä" * (step % 90)) for step in range(20))
    tail = Tail(path)
    found: list[int] = []
    for cut in [*sorted(cuts), len(text)]:
        path.write_bytes(text[:cut])
        more = True
        while more:
            batch = tail.poll(limit_bytes=limit)
            assert not batch.restarted
            found += steps(batch)
            more = batch.more and bool(batch.events)
    assert found == list(range(20))


def test_a_limit_splits_the_reading_and_says_so(path: Path) -> None:
    path.write_bytes(b"".join(line(step) for step in range(100)))
    tail = Tail(path)
    first = tail.poll(limit_bytes=500)
    assert 0 < len(first.events) < 100
    assert first.more
    rest = tail.poll()
    assert steps(first) + steps(rest) == list(range(100))
    assert not rest.more


def test_a_file_cut_back_is_read_anew(path: Path) -> None:
    tail = Tail(path)
    path.write_bytes(line(1) + line(2) + line(3))
    tail.poll()
    path.write_bytes(line(1))
    batch = tail.poll()
    assert batch.restarted
    assert steps(batch) == [1]


@pytest.mark.parametrize("after", [2, 3, 6])
def test_a_resumed_run_is_noticed_even_when_it_has_grown_past_where_it_was(
    path: Path, after: int
) -> None:
    """Between two polls the file is cut and grows again; events differ only in their time."""
    tail = Tail(path)
    log = EventLog(path)
    log.emit({"kind": "train", "step": 1})
    kept = log.position()
    for step in (2, 3):
        log.emit({"kind": "train", "step": step, "loss_nats": 0.5})
    log.close()
    assert steps(tail.poll()) == [1, 2, 3]
    log = EventLog(path, keep_bytes=kept)
    for step in range(2, after + 1):
        log.emit({"kind": "train", "step": step, "loss_nats": 0.5})
    log.close()
    batch = tail.poll()
    assert batch.restarted
    assert steps(batch) == list(range(1, after + 1))


def test_a_resumed_run_of_the_same_length_to_the_byte_is_noticed(path: Path) -> None:
    tail = Tail(path)
    path.write_bytes(line(1) + line(2, time=1000.5, kind="similarity", layers=[[0.0] * 400]))
    tail.poll()
    again = line(1) + line(2, time=2000.5, kind="similarity", layers=[[0.0] * 400])
    assert len(again) == path.stat().st_size
    path.write_bytes(again)
    assert tail.poll().restarted


def test_a_cut_that_takes_nothing_that_was_read_is_no_restart(path: Path) -> None:
    tail = Tail(path)
    path.write_bytes(line(1) + b'{"torn')
    assert steps(tail.poll()) == [1]
    path.write_bytes(line(1) + line(2))
    batch = tail.poll()
    assert steps(batch) == [2]
    assert not batch.restarted


def test_another_file_in_its_place_is_read_anew(path: Path) -> None:
    tail = Tail(path)
    path.write_bytes(line(1) + line(2))
    tail.poll()
    other = path.with_name("other")
    other.write_bytes(line(7) + line(8) + line(9))
    other.replace(path)
    batch = tail.poll()
    assert batch.restarted
    assert steps(batch) == [7, 8, 9]


def test_a_copy_that_is_synchronised_is_followed(path: Path) -> None:
    """rsync puts a new file with the same beginning in its place."""
    tail = Tail(path)
    path.write_bytes(line(1) + line(2))
    tail.poll()
    other = path.with_name("other")
    other.write_bytes(line(1) + line(2) + line(3))
    other.replace(path)
    batch = tail.poll()
    assert steps(batch) == [3]
    assert not batch.restarted


def test_a_folder_deleted_and_made_again_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    path.parent.mkdir()
    path.write_bytes(line(1))
    tail = Tail(path)
    tail.poll()
    path.unlink()
    path.parent.rmdir()
    for _ in range(2):
        assert tail.poll() == Batch(missing=True)
    path.parent.mkdir()
    path.write_bytes(line(1))
    batch = tail.poll()
    assert batch.restarted
    assert steps(batch) == [1]


def test_lines_that_are_no_events_are_counted_and_told_once(path: Path) -> None:
    path.write_bytes(
        line(1) + b"no json\n" + b"[1]\n" + b'{"step":1}\n' + b"\xff\xfe\n" + b"\n" + line(2)
    )
    tail = Tail(path)
    batch = tail.poll()
    assert steps(batch) == [1, 2]
    assert batch.notices == ["lines that are not events are skipped"]
    assert tail.skipped == {"broken": 4}
    with open(path, "ab") as file:
        file.write(b"more\n")
    assert tail.poll().notices == []
    assert tail.skipped == {"broken": 5}


def test_events_of_a_future_schema_are_skipped_and_said(path: Path) -> None:
    path.write_bytes(line(1) + line(2, schema=SCHEMA + 1) + line(3, schema="x" * 99) + line(4))
    tail = Tail(path)
    batch = tail.poll()
    assert steps(batch) == [1, 4]
    (notice,) = batch.notices
    assert f"schema {SCHEMA + 1}" in notice
    assert f"reads schema {SCHEMA}" in notice
    assert tail.skipped == {"newer": 2}


def test_an_endless_line_costs_no_memory_and_is_skipped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "LONG_LINE", 10_000)
    monkeypatch.setattr(module, "CHUNK_BYTES", 1000)
    tail = Tail(path)
    path.write_bytes(line(1) + b"x" * 25_000)
    batch = tail.poll()
    assert steps(batch) == [1]
    assert len(batch.notices) == 1
    with open(path, "ab") as file:
        file.write(b"x" * 25_000 + b"\n" + line(2))
    assert steps(tail.poll()) == [2]
    assert tail.skipped == {"long": 1}


def test_a_folder_in_place_of_the_file_is_said_once(path: Path) -> None:
    path.mkdir()
    tail = Tail(path)
    first = tail.poll()
    assert first.missing
    assert first.notices == ["events.jsonl cannot be read: it is not a regular file"]
    assert tail.poll().notices == []
    path.rmdir()
    path.write_bytes(line(1))
    assert steps(tail.poll()) == [1]


def test_a_pipe_in_place_of_the_file_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    assert Tail(path).poll().missing


def test_a_file_that_may_not_be_read_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(line(1))

    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    tail = Tail(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        batch = tail.poll()
        assert batch.missing
        assert batch.notices == ["events.jsonl cannot be read: Permission denied"]
    assert steps(tail.poll()) == [1]


def layers(count: int = 3, size: int = 60) -> list[dict[str, Any]]:
    return [
        {
            "layer": number,
            "cka": [[(i + j) / 1000 + number for j in range(size)] for i in range(size)],
            "mean": None if number == 1 else number / 10,
            "shared": [[(i * j) / 10000 for j in range(size)] for i in range(size)],
        }
        for number in range(count)
    ]


def test_the_matrices_of_schema_1_come_with_their_event(path: Path) -> None:
    probe = line(2, kind="similarity", schema=1, measure="cka", layers=layers())
    path.write_bytes(line(1) + probe + line(3))
    batch = Tail(path).poll()
    assert steps(batch) == [1, 2, 3]
    found = batch.events[1]
    assert [layer["mean"] for layer in found["layers"]] == [0, None, 0.2]
    held = found["held"]
    assert held.layers == (0, 1, 2)
    for place, expected in enumerate(layers()):
        np.testing.assert_allclose(held.cka_LNN[place], expected["cka"], rtol=1e-6)
        np.testing.assert_allclose(held.shared_LNN[place], expected["shared"], rtol=1e-6)


def test_an_event_of_schema_1_of_many_experts_is_read(path: Path) -> None:
    """Such a line is longer than others may be."""
    probe = line(2, kind="similarity", schema=1, layers=layers(2, 700))
    assert len(probe) > LONG_LINE
    path.write_bytes(line(1) + probe + line(3))
    tail = Tail(path)
    found = []
    more = True
    while more:
        batch = tail.poll(1 << 20)
        found += batch.events
        more = batch.more
    assert [event["step"] for event in found] == [1, 2, 3]
    assert found[1]["held"].cka_LNN.shape == (2, 700, 700)


def test_a_line_longer_than_any_event_is_skipped_and_said(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    long = json.dumps({"schema": 1, "kind": "warning", "step": 2, "message": "x" * (9 << 20)})
    blank = "\n" * 100_000
    lines = [json.dumps(event("train", step, loss_nats=1.0)) for step in (1, 3)]
    path.write_text(f"{lines[0]}\n{long}\n{blank}{lines[1]}\n")
    tail = Tail(path)
    first = tail.poll()
    found, notices = first.events, first.notices
    while first.more:
        first = tail.poll()
        found, notices = found + first.events, notices + first.notices
    assert [e["step"] for e in found] == [1, 3]
    assert notices == ["lines of over 8 MiB are skipped"]
    assert tail.skipped == {"long": 1}
