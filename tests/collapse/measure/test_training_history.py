"""The history of a training, as a report tells it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simsmoe_cli.collapse.measure.training_history import LOSSES_KEPT, judged_dead, read_history
from simsmoe_cli.collapse.sources.base import Judged
from simsmoe_cli.run.event_log import EventLog


def test_history_tells_losses_and_probes(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.emit({"kind": "run_started", "step": 0, "total_steps": 9000})
    for step in range(1, 9001):
        log.emit(
            {"kind": "train", "step": step, "loss_nats": 3.0, "bpc": None if step == 7 else 4.0}
        )
    log.emit(
        {"kind": "eval", "step": 9000, "split": "valid", "loss_nats": 2.0, "bpc": 2.9, "best": True}
    )
    for step, first in ((10, 0.5), (20, 0.9)):
        log.emit(
            {
                "kind": "router",
                "step": step,
                "layers": [{"layer": 0, "load": [first, 1 - first], "load_cv": 0.1, "dead": [1]}],
            }
        )
        log.emit(
            {
                "kind": "similarity",
                "step": step,
                "tokens": 64,
                "layers": [{"layer": 0, "mean": float("nan")}],
            }
        )
    log.close()
    history = read_history(tmp_path / "events.jsonl")
    trained = [point for point in history.losses if point.split == "train"]
    assert LOSSES_KEPT / 2 < len(trained) <= LOSSES_KEPT + 1
    assert trained[-1].step == 9000
    (valid,) = [point for point in history.losses if point.split == "valid"]
    assert (valid.step, valid.bpc, valid.best) == (9000, 2.9, True)
    first, second = history.probes
    assert (first.step, first.cka_mean, first.dead) == (10, [None], [1])
    assert first.drift == [None]
    assert second.drift == [pytest.approx(0.4)]
    assert (history.total_steps, history.probe_tokens) == (9000, 64)


def test_history_passes_over_what_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    strange = [
        {"kind": "train", "step": 1, "loss_nats": "much"},
        {"kind": "train"},
        {"kind": "dance", "step": 2},
        {"kind": "router", "step": 3, "layers": None},
        {"kind": "similarity", "step": 3},
        ["no", "event"],
    ]
    path.write_text("".join(json.dumps(event) + "\n" for event in strange) + '{"kind": "tr')
    history = read_history(path)
    assert [(point.step, point.loss_nats) for point in history.losses] == [(1, None)]
    assert [point.step for point in history.probes] == [3]
    assert read_history(tmp_path / "none").losses == []


def test_the_last_judgement_on_training_batches_says_which_experts_are_dead(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    for step, slots, dead in ((0, [0, 0], None), (10, [4000, 10], [1]), (20, [90, 90], None)):
        layer = {"layer": 0, "load": [0.5, 0.5], "slots": slots, "dead": dead}
        log.emit({"kind": "router", "step": step, "layers": [layer]})  # type: ignore[typeddict-item, list-item]
    log.emit({"kind": "router", "step": 30, "layers": [{"layer": 0, "load": [1, 0], "dead": [1]}]})
    log.close()
    assert judged_dead(path, 9) == {}
    assert judged_dead(path, 20) == judged_dead(path, None) == {0: Judged([1], 4010)}
    assert judged_dead(tmp_path / "none", None) == {}
    assert [probe.dead for probe in read_history(path).probes] == [[None], [1], [None], [1]]
