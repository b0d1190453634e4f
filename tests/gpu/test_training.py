"""Training steps on a device: they learn, never wait, compile once, and go on after a stop."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from simsmoe_cli.run import checkpoint
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.signals import Stopped
from tests.gpu.devices import (
    BOTH,
    CUDA,
    ON_CUDA,
    no_waiting,
    only_repeatable_algorithms,
)
from tests.routers import CASES
from tests.train.test_resume import PAPER_MODEL, SETTINGS, assert_same_run, weights
from tests.train.test_routers import sections

Make = Callable[..., Trainer[Any]]

# Pairs are due in every step, whatever the preset says.
BUSY = {"check_every": 0.0, "weight": 0.003, "tokens": 16, "min_tokens": 4, "budget": None}
# Steps of a training so long that no router leaves its first stage in ten of them.
LONG = 100_000
STEPS = {"cpu": 3, "cuda": 10}
PRECISION = {"cpu": "fp32", "cuda": "bf16"}


def step(run: Trainer[Any], steps: int) -> list[Tensor]:
    """Some training steps; the task's loss of each, still on the device."""
    losses = []
    for _ in range(steps):
        before = run.stepper.window.sums.get("task")
        run.step()
        now = run.stepper.window.sums["task"]
        losses.append(now if before is None else now - before)
    return losses


def assert_learned(run: Trainer[Any], losses: list[Tensor]) -> None:
    """The loss fell, and nothing became non-finite."""
    values = [loss.item() for loss in losses]
    assert all(map(math.isfinite, values)), values
    assert min(values[1:]) < values[0], f"the loss never fell: {values}"
    assert not run.stepper.guard.tripped()
    wrong = [n for n, p in run.model.named_parameters() if not p.isfinite().all()]
    assert not wrong, f"no finite numbers: {wrong}"


def changes(case: str, preset: str, **train: Any) -> dict[str, Any]:
    similarity = {"preset": preset, **(BUSY if preset != "none" else {})}
    settings = {"steps": LONG, "lr": 3e-3, "warmup_steps": 0, "compile": "off"} | train
    return sections(case, similarity=similarity, train=settings)


# On a CPU tests/train/test_no_waits.py has the other presets.
PRESETS = [
    pytest.param("cuda", "none", marks=ON_CUDA),
    pytest.param("cuda", "published", marks=ON_CUDA),
    pytest.param("cuda", "calibrated", marks=ON_CUDA),
    ("cpu", "calibrated"),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("device", "preset"), PRESETS)
def test_a_router_trains_without_waiting(
    trainer: Make, device: str, case: str, preset: str
) -> None:
    run = trainer(device, **changes(case, preset, precision=PRECISION[device]))
    losses = step(run, 1)
    with no_waiting(device):
        losses += step(run, STEPS[device] - 1)
    assert_learned(run, losses)
    if preset != "none":
        assert run.stepper.window.sums["pairs_due"].item() > 0


@pytest.mark.parametrize("case", ["stablemoe", "smoe-dropout", "competesmoe"])
@pytest.mark.parametrize("device", BOTH)
def test_a_router_goes_through_its_stages(trainer: Make, device: str, case: str) -> None:
    given = changes(case, "calibrated", steps=10, precision=PRECISION[device])
    run = trainer(device, **given)
    assert_learned(run, step(run, 10))


@pytest.mark.parametrize("preset", ["none", "published", "calibrated"])
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("device", BOTH)
def test_relative_attention_with_dropout_trains_without_waiting(
    trainer: Make, device: str, micro_batches: int, preset: str
) -> None:
    given = changes(
        "smoe", preset, precision=PRECISION[device], micro_batches=micro_batches, clip_norm=1.0
    )
    run = trainer(device, model=PAPER_MODEL, **given)
    losses = step(run, 1)
    with no_waiting(device):
        losses += step(run, STEPS[device] - 1)
    assert_learned(run, losses)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("device", [CUDA])
def test_a_router_trains_compiled(trainer: Make, device: str, case: str) -> None:
    """One layer, so that CompeteSMoE's competitions are in every step or in none."""
    given = changes(case, "calibrated", precision="bf16", compile="on")
    run = trainer(device, model={"repeats": 1}, **given)
    losses = step(run, 4)
    with no_waiting(device):
        losses += step(run, 6)
    assert_learned(run, losses)


@pytest.mark.parametrize("case", ["stablemoe", "smoe-dropout"])
@pytest.mark.parametrize("device", [CUDA])
def test_a_router_goes_through_its_stages_compiled(trainer: Make, device: str, case: str) -> None:
    given = changes(case, "calibrated", steps=10, precision="bf16", compile="on")
    run = trainer(device, model={"repeats": 1}, **given)
    assert_learned(run, step(run, 10))


@pytest.fixture
def in_one_graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A graph break is an error."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compiled(function, fullgraph=True))
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("in_one_graph")
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(
    ("model", "similarity"),
    [
        (PAPER_MODEL, {"preset": "published", **BUSY}),
        ({}, {"preset": "calibrated", **BUSY}),
        ({}, {"preset": "calibrated", **BUSY, "weight": [[0, 0.0], [0.1, 0.003]]}),
        ({}, {}),
    ],
    ids=["paper", "modern", "scheduled", "plain"],
)
@pytest.mark.parametrize("device", [CUDA])
def test_changing_loads_compile_nothing_again(
    trainer: Make,
    device: str,
    precision: str,
    model: dict[str, Any],
    similarity: dict[str, Any],
) -> None:
    """One graph; a hundred steps, of which the first three may compile."""
    train = {"compile": "on", "precision": precision, "steps": 100, "lr": 3e-3}
    run = trainer(device, model=model, similarity=similarity, train=train)
    losses = step(run, 3)
    with torch._dynamo.config.patch(error_on_recompile=True):
        losses += step(run, 97)
    assert_learned(run, losses)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [PAPER_MODEL | {"dropout": 0.0}, {}], ids=["paper", "modern"])
@pytest.mark.parametrize("device", [CUDA])
def test_compiled_steps_learn_what_others_do(
    trainer: Make, device: str, model: dict[str, Any], precision: str, record_property: Any
) -> None:
    found = []
    for compiled in ("off", "on"):
        train = {"compile": compiled, "precision": precision, "steps": LONG, "lr": 1e-3}
        run = trainer(device, model=model, train=train)
        found.append([loss.item() for loss in step(run, 5)])
    error = max(abs(a - b) / b for a, b in zip(*found, strict=True))
    record_property("relative error of the loss", error)
    assert error < (1e-4 if precision == "fp32" else 2e-2), found


def train_and_stop(trainer: Make, device: str, at: int, **given: Any) -> tuple[Any, Any]:
    """An uninterrupted run, and one that was stopped after a step and went on."""
    whole = trainer(device, "whole", **given)
    whole.train()
    stopped = trainer(device, "stopped", **given)
    stopped.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == at else None
    with pytest.raises(Stopped):
        stopped.train()
    start = checkpoint.find(stopped.run, "last")
    resumed = trainer(device, "stopped", resume_from=start, **given)
    resumed.train()
    return whole, resumed


@pytest.mark.parametrize("model", ["paper", "modern"])
@pytest.mark.parametrize(
    ("device", "compiled"),
    [
        ("cpu", "off"),
        pytest.param("cuda", "off", marks=ON_CUDA),
        pytest.param("cuda", "on", marks=ON_CUDA),
    ],
)
def test_a_resumed_run_repeats_bit_for_bit(
    trainer: Make, device: str, compiled: str, model: str
) -> None:
    given = dict(SETTINGS)
    if model == "modern":
        given["model"] = {}
        given["similarity"] = {"preset": "calibrated", **BUSY}
    given["train"] = given["train"] | {"precision": PRECISION[device], "compile": compiled}
    with only_repeatable_algorithms():
        whole, resumed = train_and_stop(trainer, device, 7, **given)
    assert_same_run(resumed.run, whole.run, "checkpoint")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("device", [CUDA])
def test_a_resumed_run_is_near_an_uninterrupted_one(
    trainer: Make, device: str, precision: str, record_property: Any
) -> None:
    """With any algorithms, some of which add in another order every time."""
    given = dict(SETTINGS)
    given["train"] = given["train"] | {"precision": precision, "compile": "off"}
    whole, resumed = train_and_stop(trainer, device, 7, **given)
    ours, theirs = (
        torch.cat(
            [t.float().flatten() for n, t in sorted(weights(run.run).items()) if "rng" not in n]
        )
        for run in (resumed, whole)
    )
    error = ((ours - theirs).norm() / theirs.norm()).item()
    record_property("relative error of everything saved", error)
    assert error < (1e-3 if precision == "fp32" else 2e-2)
