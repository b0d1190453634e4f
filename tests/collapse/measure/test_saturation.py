"""Router saturation: counted token by token; unrelated routing is at chance."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.collapse.measure.saturation import saturation
from simsmoe_cli.similarity.shared import received
from tests.collapse.measure.made_outputs import generator


def test_the_share_of_experts_that_stayed_is_counted() -> None:
    now = received(torch.tensor([[0, 1], [2, 3], [0, 4], [4, 4]]), 4)  # 4 stands for no expert
    then = received(torch.tensor([[0, 2], [3, 2], [1, 4], [0, 1]]), 4)
    found = saturation(now, then, 20)
    assert (found.step, found.tokens) == (20, 4)
    assert found.share == pytest.approx((0.5 + 1 + 0) / 3)


def test_unrelated_routing_is_at_chance() -> None:
    now, then = (
        received((torch.rand(20_000, 8, generator=generator(seed)) + bias).topk(2).indices, 8)
        for seed, bias in ((0, torch.linspace(0, 0.3, 8)), (1, torch.linspace(0, 0.3, 8)))
    )
    found = saturation(now, then, 1)
    assert found.share == pytest.approx(found.chance, abs=0.01)
    assert found.chance > 0.27  # more than 2 of 8, as both prefer the same experts
