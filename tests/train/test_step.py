"""One optimizer step: micro-batches and clipping."""

from __future__ import annotations

import pytest
import torch

from tests.train.test_resume import PAPER_MODEL
from tests.train.tiny import (
    Make,
    events,
    weights,
)


def test_micro_batches_add_up_to_the_batch(trainer: Make) -> None:
    """The balance loss, which is not a sum over tokens, left out."""
    parts = []
    for number in (1, 2, 4):
        made = trainer(
            f"run-{number}",
            model=PAPER_MODEL | {"dropout": 0.0},
            moe={"balance_weight": 0.0},
            train={"micro_batches": number, "eps": 1e-3},
        )
        for _ in range(3):
            made.step()
        parts.append(weights(made))
    for name, whole in parts[0].items():
        for part in parts[1:]:
            torch.testing.assert_close(part[name], whole, rtol=1e-3, atol=1e-5)


def test_gradients_are_clipped_and_their_norm_reported(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(train={"clip_norm": 0.05, "log_every": 1})
    norms: list[float] = []
    step = made.stepper.optimizer.step

    def watched() -> None:
        grads = [p.grad for p in made.model.parameters() if p.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(grads).item())
        step()

    monkeypatch.setattr(made.stepper.optimizer, "step", watched)
    made.train()
    assert norms == pytest.approx([0.05] * 8, rel=1e-4)
    assert all(event["grad_norm"] > 0.1 for event in events(made.run, "train"))
