"""Similarity learning in training: schedules and scopes in the loss, the events, and resuming."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from simsmoe_cli.recipe.schedule import value_at
from simsmoe_cli.run import checkpoint
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.signals import Stopped
from tests.no_waiting import NoWaiting
from tests.train.test_resume import assert_same_run
from tests.train.tiny import events

Make = Callable[..., Trainer]

SCHEDULES: dict[str, Any] = {
    "weight": [[0.0, 0.0], [0.5, 0.2]],
    "threshold": [[0.0, 0.0], [1.0, 0.4]],
    "check_every": [[0.2, 0.0], [0.8, 0.5]],
    "sigma": [[0.0, 0.8], [1.0, 2.0]],
}
SCOPES: dict[str, dict[str, Any]] = {
    "pairs": {"preset": "paper", "min_tokens": 4, **SCHEDULES},
    "layer": {"preset": "calibrated", "scope": "layer", "tokens": 16, "budget": None}
    | {"weight": SCHEDULES["weight"], "threshold": SCHEDULES["threshold"]},
    "experts": {"preset": "calibrated", "scope": "experts", "tokens": 16, "budget": None}
    | {"weight": SCHEDULES["weight"], "threshold": SCHEDULES["threshold"]},
}
every_scope = pytest.mark.parametrize("scope", SCOPES)


def after(made: Trainer, steps: int) -> dict[str, torch.Tensor]:
    for _ in range(steps):
        made.step()
    return {name: value.clone() for name, value in made.model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@every_scope
def test_the_weight_of_a_step_is_that_of_its_schedule(trainer: Make, scope: str) -> None:
    common = {"preset": "calibrated", "scope": scope, "tokens": 16, "threshold": 0.0}
    common["budget"] = None
    common |= {"min_tokens": 4} if scope == "pairs" else {}

    def run(weight: Any) -> dict[str, torch.Tensor]:
        return after(trainer(similarity={**common, "weight": weight}), 4)

    nothing = after(trainer(), 4)
    # 0 for the four steps that are half of training: as without similarity learning, bit for bit.
    assert same(nothing, run([[0.5, 0.0], [1.0, 0.5]]))
    assert same(run([[0.0, 0.5], [1.0, 0.5]]), run(0.5))
    assert not same(nothing, run([[0.0, 0.0], [0.3, 0.5]]))


@every_scope
def test_events_say_what_is_in_force(trainer: Make, scope: str) -> None:
    made = trainer(similarity=SCOPES[scope], train={"log_every": 1})
    made.train()
    scheduled = [name for name in SCHEDULES if name in SCOPES[scope]]
    train = events(made.run, "train")
    for event in train:
        progress = (event["step"] - 1) / 8
        found = event["similarity"]
        assert set(found) == {"pairs_due", "mean", *scheduled}
        for name in scheduled:
            assert found[name] == pytest.approx(value_at(SCHEDULES[name], progress))
    assert not train[0]["similarity"]["pairs_due"]  # the weight is 0
    assert train[0]["similarity"]["mean"] is None
    if scope != "pairs":
        # Six pairs in each of two layers, on every other step.
        assert {event["similarity"]["pairs_due"] for event in train[1:]} == {12}
        assert all(0 <= event["losses"]["similarity"] <= 2 for event in train[1:])


@every_scope
def test_a_stopped_run_goes_on_bit_for_bit(trainer: Make, scope: str) -> None:
    settings = {"similarity": SCOPES[scope]}
    whole = trainer("whole", **settings)
    whole.train()
    stopped = trainer("stopped", **settings)
    stopped.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 5 else None
    with pytest.raises(Stopped):
        stopped.train()
    resumed = trainer("stopped", resume_from=checkpoint.find(stopped.run, "last"), **settings)
    resumed.train()
    assert_same_run(resumed.run, whole.run, "checkpoint")


def test_a_budget_leaves_steps_out_and_a_resumed_run_goes_on_with_it(trainer: Make) -> None:
    similarity: dict[str, Any] = {"preset": "calibrated", "weight": 0.003, "tokens": 16}
    similarity |= {"min_tokens": 4, "budget": 0.1}
    settings = {"similarity": similarity, "train": {"log_every": 1, "steps": 12}}
    whole = trainer("whole", **settings)
    whole.train()
    (started,) = events(whole.run, "run_started")
    every = started["compare_every"]
    assert 1 < every < 6
    assert started["similarity_flops"] <= 0.1
    compared = [event["similarity"]["pairs_due"] for event in events(whole.run, "train")]
    assert [step for step, pairs in enumerate(compared) if pairs] == list(range(0, 12, every))
    losses = [event["losses"]["similarity"] for event in events(whole.run, "train")]
    assert all((loss > 0) == (pairs > 0) for loss, pairs in zip(losses, compared, strict=True))
    stopped = trainer("stopped", **settings)
    stopped.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 5 else None
    with pytest.raises(Stopped):
        stopped.train()
    resumed = trainer("stopped", resume_from=checkpoint.find(stopped.run, "last"), **settings)
    resumed.train()
    assert_same_run(resumed.run, whole.run, "checkpoint")


@every_scope
@pytest.mark.parametrize("top_k", [1, 3])
def test_a_step_does_not_wait(trainer: Make, scope: str, top_k: int) -> None:
    made = trainer(similarity=SCOPES[scope], moe={"top_k": top_k}, train={"micro_batches": 2})
    made.step()
    with NoWaiting():
        made.step()
    assert made.stepper.window.sums["pairs_due"].item() > 0


@pytest.mark.parametrize(("experts", "top_k"), [(2, 1), (2, 2), (4, 3)])
@every_scope
def test_few_experts_train_too(trainer: Make, scope: str, experts: int, top_k: int) -> None:
    made = trainer(
        similarity=SCOPES[scope] | {"threshold": 0.0, "weight": 0.1},
        moe={"experts": experts, "top_k": top_k},
        train={"log_every": 8},
    )
    made.train()
    (event,) = events(made.run, "train")
    assert event["losses"]["similarity"] > 0
    assert event["similarity"]["pairs_due"] > 0
