"""The training loop: what a run reports and computes."""

from __future__ import annotations

import math
import os
import signal
from typing import Any

import numpy as np
import pytest

from simsmoe_cli.run import checkpoint, probes
from simsmoe_cli.run.dead_experts import dead_experts
from simsmoe_cli.train.evaluate import evaluate_split
from simsmoe_cli.train.optim import learning_rate
from simsmoe_cli.train.signals import Stopped
from tests.train.tiny import (
    Make,
    assert_equal,
    events,
    weights,
    without_times,
)

COMMON = {"schema", "kind", "step", "time"}
# What run/events.py documents.
FIELDS = {
    "run_started": {
        "name", "recipe", "parameters", "tokens_per_step", "total_steps", "unit", "device",
        "precision", "compare_every", "similarity_flops",
    },
    "train": {
        "loss_nats", "bpc", "losses", "lr", "grad_norm", "tokens", "similarity", "tokens_per_s",
        "step_ms", "machine",
    },
    "eval": {
        "split",
        "loss_nats",
        "bpc",
        "bits_per_byte",
        "perplexity",
        "word_perplexity",
        "tokens",
        "best",
        "tokens_per_s",
    },
    "router": {"layers"},
    "similarity": {"tokens", "fewest_shared", "measure", "layers", "matrices"},
    "checkpoint": {"path"},
    "run_finished": {"status", "reason", "test_bpc", "test_loss_nats", "best_step"},
}  # fmt: skip
LAYER_FIELDS = {
    "router": {"layer", "load", "load_cv", "slots", "dead", "entropy_nats", "entropy_of_mean_nats"},
    "similarity": {"layer", "mean", "highest", "pair", "shared_mean", "shared_pairs"},
}
SIMILARITY = {"preset": "calibrated", "weight": 0.003, "min_tokens": 4, "budget": None}


def test_a_run_writes_the_documented_events(trainer: Make) -> None:
    made = trainer(similarity=SIMILARITY, moe={"z_weight": 1e-3})
    result = made.train()
    written = events(made.run)
    for event in written:
        assert set(event) == COMMON | FIELDS[event["kind"]], event["kind"]
        for layer in event.get("layers", []):
            assert set(layer) == LAYER_FIELDS[event["kind"]]
    assert [(event["kind"], event["step"]) for event in written] == [
        ("run_started", 0), ("router", 0), ("similarity", 0),
        ("train", 2),
        ("train", 4), ("eval", 4), ("router", 4), ("similarity", 4), ("checkpoint", 4),
        ("train", 6),
        ("train", 8), ("eval", 8), ("router", 8), ("similarity", 8), ("checkpoint", 8),
        ("eval", 8), ("run_finished", 8),
    ]  # fmt: skip
    started, finished = written[0], written[-1]
    assert (started["name"], started["total_steps"]) == ("run", 8)
    assert started["recipe"] == made.recipe.model_dump(mode="json")
    assert started["parameters"] == sum(p.numel() for p in made.model.parameters())
    assert (started["tokens_per_step"], started["unit"]) == (4 * 32, "byte")
    assert (started["device"], started["precision"]) == ("cpu", "fp32")
    assert finished["status"] == "finished"
    assert finished["test_bpc"] == result.bpc == written[-2]["bpc"]
    assert finished["test_loss_nats"] == result.loss_nats
    validated = {e["step"]: e["loss_nats"] for e in written if e.get("split") == "valid"}
    assert finished["best_step"] == min(validated, key=lambda step: validated[step])
    for event in (e for e in written if e["kind"] == "train"):
        assert set(event["losses"]) == {"balance", "z", "similarity"}
        lr = learning_rate(event["step"] - 1, made.settings)
        assert event["lr"] == pytest.approx(lr, rel=1e-7)  # written with the digits of fp32
        assert event["tokens"] == event["step"] * 4 * 32
        assert event["bpc"] == pytest.approx(event["loss_nats"] / math.log(2))
        assert 0 < event["similarity"]["pairs_due"] <= 2 * 4  # two layers, at most four pairs each
    for event in (e for e in written if e["kind"] == "checkpoint"):
        assert (made.run.path / event["path"]).is_dir()
    *_, routed = (e for e in written if e["kind"] == "router")
    for layer in routed["layers"]:
        assert sum(layer["slots"]) == 8 * 4 * 32 * made.recipe.moe.top_k
        assert layer["dead"] == dead_experts(layer["slots"])
    for event in (e for e in written if e["kind"] == "similarity"):
        matrices = probes.read(made.run.path, event["matrices"])
        for layer, cka in zip(event["layers"], matrices.cka_LNN, strict=True):
            assert layer["highest"] == cka[tuple(layer["pair"])]
            assert layer["mean"] == pytest.approx(np.nanmean(cka[np.triu_indices(len(cka), 1)]))


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_slots_are_those_of_whole_batches(trainer: Make, micro_batches: int) -> None:
    made = trainer(train={"micro_batches": micro_batches})
    made.train()
    *_, routed = events(made.run, "router")
    for layer in routed["layers"]:
        assert sum(layer["slots"]) == 8 * 4 * 32 * made.recipe.moe.top_k


def test_a_run_stopped_after_its_last_step_can_be_tested(trainer: Make) -> None:
    """Also where nothing was validated."""
    made = trainer(train={"validate_every": 0})
    made.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 8 else None
    with pytest.raises(Stopped):
        made.train()
    assert checkpoint.read_state(checkpoint.find(made.run, "best"))["step"] == 8


def test_train_events_hold_means_over_their_steps(trainer: Make) -> None:
    fine = trainer("fine", similarity=SIMILARITY, train={"log_every": 1})
    fine.train()
    coarse = trainer("coarse", similarity=SIMILARITY, train={"log_every": 4})
    coarse.train()
    each = events(fine.run, "train")
    for number, event in enumerate(events(coarse.run, "train")):
        part = each[4 * number : 4 * number + 4]
        assert event["step"] == part[-1]["step"]
        for value in (
            lambda e: e["loss_nats"],
            lambda e: e["losses"]["balance"],
            lambda e: e["losses"]["similarity"],
            lambda e: e["grad_norm"],
            lambda e: e["similarity"]["pairs_due"],
        ):
            assert value(event) == pytest.approx(sum(value(e) for e in part) / 4, rel=1e-5)
        due = sum(e["similarity"]["pairs_due"] for e in part)
        total = sum(e["similarity"]["mean"] * e["similarity"]["pairs_due"] for e in part)
        assert event["similarity"]["mean"] == pytest.approx(total / due, rel=1e-4)


def test_without_similarity_learning_nothing_is_said_of_it(trainer: Make) -> None:
    made = trainer()
    made.train()
    for event in events(made.run, "train"):
        assert "similarity" not in event
        assert set(event["losses"]) == {"balance"}


def test_nothing_happens_that_is_set_to_never(trainer: Make) -> None:
    """Without a validation the last weights are the ones that are kept and tested."""
    never = {"validate_every": 0, "checkpoint_every": 0, "probe_every": 0, "log_every": 5}
    made = trainer(train=never)
    made.train()
    assert [(event["kind"], event["step"]) for event in events(made.run)] == [
        ("run_started", 0), ("train", 5), ("train", 8), ("checkpoint", 8), ("eval", 8),
        ("run_finished", 8),
    ]  # fmt: skip
    (tested,) = events(made.run, "eval")
    assert tested["split"] == "test"
    assert checkpoint.read_state(made.run.best)["step"] == 8
    store = made.objective.store
    direct = evaluate_split(made.model, store.split("test"), block=32, streams=4, max_blocks=2)
    assert tested["loss_nats"] == pytest.approx(direct.loss_nats)


def test_seeds_decide_everything(trainer: Make) -> None:
    model: dict[str, Any] = {"model": {"dropout": 0.1}, "similarity": SIMILARITY}
    runs = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        made = trainer(name, **model, train={"seed": seed})
        made.train()
        runs.append((weights(made), [without_times(e) for e in events(made.run, "train")]))
    assert_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert runs[0][1] != runs[2][1]
