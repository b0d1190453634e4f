"""No event, whatever it holds, can stop a monitor."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simsmoe_cli.monitor.read.tail import Batch, Tail
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.run.event_log import NotAnEvent, parse_event
from simsmoe_cli.run.events import Event
from tests.monitor.made_run import event

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**400)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["valid", "test", "finished"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
KINDS = ["run_started", "train", "eval", "router", "similarity", "checkpoint", "warning",
         "run_finished", "dream"]  # fmt: skip
FIELDS = ["time", "loss_nats", "bpc", "losses", "lr", "metrics", "similarity", "split", "layers",
          "recipe", "unit", "total_steps", "status", "message", "path", "measure",
          "tokens"]  # fmt: skip
LAYER = st.fixed_dictionaries(
    {"layer": st.integers(-1, 3) | JSON},
    optional={
        "cka": JSON | st.lists(st.lists(JSON, min_size=2, max_size=2), min_size=2, max_size=2),
        "mean": JSON,
        "shared": JSON,
        "load": JSON | st.lists(JSON, max_size=3),
        "load_cv": JSON,
        "dead": JSON | st.lists(JSON, max_size=3),
    },
)
EVENT = st.fixed_dictionaries(
    {"kind": st.sampled_from(KINDS) | JSON, "step": st.integers(0, 50) | JSON},
    optional=dict.fromkeys(FIELDS, JSON) | {"layers": JSON | st.lists(LAYER, max_size=3)},
)


def parsed(strange: list[dict[str, Any]]) -> Iterator[Event]:
    for found in strange:
        with contextlib.suppress(NotAnEvent):
            yield parse_event(json.dumps(found).encode(), matrices=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(EVENT | st.dictionaries(st.text(max_size=5), JSON), max_size=6))
def test_no_event_can_stop_it(strange: list[dict[str, Any]]) -> None:
    history = RunHistory(Path("run"))
    history.apply(parsed(strange))
    right = event("train", 60, loss_nats=1.25, lr=0.5)
    history.take(Batch([right]), live=True)
    assert history.last("lr") == 0.5
    assert history.step == 60
    assert history.status_at(right["time"]) == "training"
    for frame in history.similarities:
        for number in frame.means:
            if frame.without_matrices():
                assert frame.layer(number) is None
    for series in history.series.values():
        series.points()
    assert history.scoring.text(history.last("train"))
    history.eta_seconds()


@settings(max_examples=30, deadline=None)
@given(st.lists(EVENT, max_size=5))
def test_strange_events_come_through_a_file_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, strange: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("strange") / "events.jsonl"
    path.write_text("".join(json.dumps(e) + "\n" for e in strange))
    history = RunHistory(path.parent)
    history.take(Tail(path).poll())
    assert history.total_events <= len(strange)
