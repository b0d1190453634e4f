"""wandb without a network."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.loggers.conftest import Logged
from tests.train.tiny import events

wandb = pytest.importorskip("wandb")


HEADER, BLOCK = 7, 32 << 10  # bytes


def records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format after a header of wandb's own."""
    at, begun = HEADER, b""
    while at + 7 <= len(content):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        begun += content[at + 7 : at + 7 + length]
        if kind in (1, 4):  # a whole record, or the end of one
            yield begun
            begun = b""
        at += 7 + length


def test_an_offline_run_holds_the_events_and_is_gone_on_with(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    run = logged("wandb")
    wandb.teardown()  # its service writes what is left
    folders = sorted((run.path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    identity = json.loads(run.loggers.read_text())["wandb"]
    assert {folder.name.rpartition("-")[2] for folder in folders} == {identity}
    rows: list[dict[str, Any]] = []
    for folder in folders:
        (file,) = folder.glob("*.wandb")
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append(
                    {
                        item.key or "/".join(item.nested_key): json.loads(item.value_json)
                        for item in items
                    }
                )
    losses = {row["step"]: row["train/loss_nats"] for row in rows if "train/loss_nats" in row}
    assert losses == {event["step"]: event["loss_nats"] for event in events(run, "train")}
    pictures = {row["step"] for row in rows if "cka/matrices/path" in row}
    assert pictures == {event["step"] for event in events(run, "similarity")}
