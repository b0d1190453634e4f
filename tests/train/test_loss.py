"""How the loss of a step is put together, and the coefficients of its parts."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.model.language_model import BackboneOutput
from simsmoe_cli.train.loss import LossWeights, total_loss


def output(**losses: float) -> BackboneOutput:
    scalars = {name: torch.tensor(value) for name, value in losses.items()}
    return BackboneOutput(torch.zeros(1, 1, 1), [], scalars, [])


def test_each_loss_has_a_coefficient_of_its_own_and_is_logged_without_it() -> None:
    task = torch.tensor(2.0, requires_grad=True)
    weights = {"balance": 0.01, "z": 0.0, "similarity": torch.tensor(0.5)}
    total, logged = total_loss(task, output(balance=3.0, z=7.0, similarity=4.0), weights, 0.25)
    assert total.item() == pytest.approx((2 + 0.01 * 3 + 0.5 * 4) / 4)
    assert {name: value.item() for name, value in logged.items()} == {
        "task": 0.5, "loss.balance": 0.75, "loss.z": 1.75, "loss.similarity": 1.0
    }  # fmt: skip
    assert not any(value.requires_grad for value in logged.values())


def test_a_scheduled_coefficient_is_a_tensor_that_is_written_to() -> None:
    schedule = [[0.0, 0.0], [1.0, 4.0]]
    weights = LossWeights({"balance": 0.01, "similarity": schedule}, torch.device("cpu"))
    first = weights.at(0.0)["similarity"]
    later = weights.at(0.25)
    assert later["balance"] == 0.01
    assert later["similarity"] is first
    assert float(first) == 1
