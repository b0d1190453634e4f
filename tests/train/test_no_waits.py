"""A training step never waits on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from simsmoe_cli.train.loop import Trainer
from tests.no_waiting import NoWaiting
from tests.train.test_resume import PAPER_MODEL


@pytest.mark.parametrize("preset", ["none", "published", "paper", "calibrated"])
@pytest.mark.parametrize("model", [PAPER_MODEL, {}], ids=["paper", "modern"])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_step_does_not_wait(
    trainer: Callable[..., Trainer], preset: str, model: dict[str, Any], clip_norm: float
) -> None:
    # f* of 0 makes pairs due in every step, whatever the preset says.
    due = {"check_every": 0.0, "weight": 0.003, "tokens": 16, "min_tokens": 4}
    run = trainer(
        model=model,
        similarity={"preset": preset, **(due if preset != "none" else {})},
        train={"clip_norm": clip_norm, "micro_batches": 2},
    )
    run.step()
    with NoWaiting():
        run.step()
    if preset != "none":
        assert run.stepper.window.sums["pairs_due"].item() > 0


def test_the_mode_catches_waiting() -> None:
    x = torch.arange(4.0)
    for wait in (
        lambda: x.sum().item(),
        lambda: x.nonzero(),
        lambda: x[x > 1],
        lambda: bool(x.any()),
    ):
        with pytest.raises(AssertionError, match="waits on the device"), NoWaiting():
            wait()
