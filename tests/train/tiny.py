"""A recipe small enough to train in a test, and how tests look at a run's events."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import torch

from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.event_log import read_events
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.weights import optimizer_tensors
from simsmoe_cli.train.loop import Trainer

Make = Callable[..., Trainer]

TINY: dict[str, dict[str, Any]] = {
    "model": {"pattern": "sg", "repeats": 2, "width": 32, "heads": 2},
    "moe": {"experts": 4, "hidden": 32},
    "data": {"corpus": "sources"},
    "train": {
        "steps": 8,
        "batch": 4,
        "block": 32,
        "log_every": 2,
        "validate_every": 4,
        "validate_blocks": 2,
        "checkpoint_every": 4,
        "probe_every": 4,
        "probe_tokens": 64,
    },
    "eval": {"final_blocks": 2, "streams": 4},
}


def recipe(**changes: dict[str, Any]) -> Recipe:
    """The tiny recipe with some fields changed, section by section."""
    sections = {name: dict(fields) for name, fields in TINY.items()}
    for name, fields in changes.items():
        sections[name] = sections.get(name, {}) | fields
    return Recipe.model_validate(sections)


def events(run: RunDir, *kinds: str) -> list[dict[str, Any]]:
    """The events of a run, of these kinds or all."""
    return [event for event in read_events(run.events) if not kinds or event["kind"] in kinds]


def without_times(event: dict[str, Any]) -> dict[str, Any]:
    """An event but for what depends on the clock."""
    return {
        key: value
        for key, value in event.items()
        if key not in ("time", "machine") and not key.endswith(("_per_s", "_ms"))
    }


def steps(run: RunDir) -> list[int]:
    """Of the checkpoints of a run."""
    return [step for step, _ in checkpoint.list_checkpoints(run)]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Copies of the parameters and of the optimizer's moments."""
    tensors = dict(trainer.model.named_parameters())
    tensors |= optimizer_tensors(trainer.model, trainer.stepper.optimizer)
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """The same tensors by name, bit for bit."""
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def interrupt(made: Trainer, at: int, *numbers: signal.Signals) -> None:
    """Send this process signals after a step."""

    def send(step: int) -> None:
        if step == at:
            for number in numbers:
                os.kill(os.getpid(), number)

    made.on_step = send
