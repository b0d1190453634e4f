"""Resuming with other settings, from an older checkpoint, and with files lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

import pytest

from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.run import checkpoint
from simsmoe_cli.train.evaluate import evaluate_split
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.signals import Stopped
from tests.train.tiny import (
    Make,
    events,
    interrupt,
    steps,
)


def test_an_older_checkpoint_starts_the_run_over_from_there(trainer: Make) -> None:
    train = {"checkpoint_every": 2, "keep_last": 9, "schedule": "constant"}
    made = trainer(train=train)
    made.train()
    assert steps(made.run) == [2, 4, 6, 8]
    older = made.run.checkpoints / "step-0000004"
    shorter = trainer(resume_from=older, train=train | {"steps": 6, "lr": 1e-5})
    shorter.train()
    # What is there is of the new course alone, and is what --resume auto continues from.
    assert steps(made.run) == [2, 4, 6]
    assert events(made.run)[-1]["step"] == 6
    assert checkpoint.read_state(checkpoint.find(made.run, "last"))["recipe"]["train"]["lr"] == 1e-5
    assert "later checkpoints were deleted: 6, 8" in {
        event["message"] for event in events(made.run, "warning")
    }


def test_a_run_resumed_with_other_settings_says_so(trainer: Make) -> None:
    made = trainer()
    made.train()
    changed = {"steps": 12, "lr": 0.01}
    longer = trainer(resume_from=checkpoint.find(made.run, "last"), train=changed)
    longer.train()
    first, second = events(made.run, "run_started")
    assert (first["step"], first["total_steps"]) == (0, 8)
    assert (second["step"], second["total_steps"]) == (8, 12)
    assert "changes" not in first
    assert second["changes"] == [
        {"setting": "train.steps", "before": 8, "after": 12},
        {"setting": "train.lr", "before": 0.001, "after": 0.01},
    ]
    trained = [event["step"] for event in events(made.run, "train")]
    assert trained == [2, 4, 6, 8, 10, 12]


def test_another_precision_is_said(trainer: Make) -> None:
    made = trainer(train={"precision": "bf16"})
    interrupt(made, 3, signal.SIGTERM)
    with pytest.raises(Stopped):
        made.train()
    resumed = trainer(resume_from=checkpoint.find(made.run, "last"))
    resumed.train()
    messages = [event["message"] for event in events(made.run, "warning")]
    assert messages == ["computing in fp32; so far it was bf16"]


def test_lost_events_do_not_keep_a_run_from_going_on(trainer: Make) -> None:
    made = trainer()
    interrupt(made, 5, signal.SIGTERM)
    with pytest.raises(Stopped):
        made.train()
    os.truncate(made.run.events, 1000)
    resumed = trainer(resume_from=checkpoint.find(made.run, "last"))
    resumed.train()
    lines = made.run.events.read_bytes().splitlines()
    assert [json.loads(line)["kind"] for line in lines[-2:]] == ["eval", "run_finished"]
    assert [e["step"] for e in events(made.run, "train")] == [6, 8]


def test_lost_best_weights_are_found_anew(trainer: Make) -> None:
    made = trainer()
    interrupt(made, 5, signal.SIGTERM)
    with pytest.raises(Stopped):
        made.train()
    for path in made.run.best.iterdir():
        path.unlink()
    resumed = trainer(resume_from=checkpoint.find(made.run, "last"), train={"lr": 1e-12})
    resumed.train()
    assert events(made.run)[-1]["best_step"] == 8


def test_the_summary_routes_as_at_the_step_of_the_best_weights(
    trainer: Callable[..., Trainer],
) -> None:
    """A router that changes with the step must be evaluated as `simsmoe eval` would."""
    run = trainer(
        moe={"router": "smoe-dropout"},
        smoe_dropout={"k_start": 1, "k_end": 4},
        train={"validate_every": 4},
    )

    def nothing_is_better_than_step_4(step: int) -> None:
        if step == 4:
            run.best_loss = -1.0

    run.on_step = nothing_is_better_than_step_4
    summary = run.train()
    context = StepContext(step=4, total_steps=8)
    expected = evaluate_split(
        run.model,
        run.objective.store.split("test"),
        block=32,
        streams=4,
        max_blocks=2,
        context=context,
    )
    assert summary.total_nats == expected.total_nats
