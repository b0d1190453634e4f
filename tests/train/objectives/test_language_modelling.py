"""Language modelling: a model learns, and memory follows the text."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.train.test_resume import PAPER_MODEL
from tests.train.tiny import Make, events


def test_a_model_learns(trainer: Make) -> None:
    made = trainer(train={"steps": 60, "lr": 1e-2, "validate_every": 20, "probe_every": 0})
    result = made.train()
    assert result.bpc < 0.8 * math.log2(made.model.vocab_size)
    losses = [event["loss_nats"] for event in events(made.run, "eval")]
    assert losses == sorted(losses, reverse=True)


def test_memory_is_carried_and_forgotten_where_the_text_starts_over(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(model=PAPER_MODEL)
    monkeypatch.setattr(made.objective.streams, "blocks", 3)
    empty: list[bool] = []
    loss = made.stepper.loss

    def watched(x: Any, y: Any, memory: list[torch.Tensor], *rest: Any) -> Any:
        empty.append(all(not tensor.any() for tensor in memory))
        return loss(x, y, memory, *rest)

    monkeypatch.setattr(made.stepper, "loss", watched)
    for _ in range(7):
        made.step()
    assert empty == [True, False, False, True, False, False, True]
