"""SMoE: top-K of linear logits, weights by a softmax over the chosen."""

from __future__ import annotations

import math

import pytest
import torch

from simsmoe_cli.moe.routers.base import RouterInput, RouterSpec, StepContext
from simsmoe_cli.moe.routers.smoe import SMoERouter


def test_weights_are_the_softmax_over_the_chosen() -> None:
    router = SMoERouter(RouterSpec(width=3, num_experts=3, top_k=2, bias=False))
    router.gate.weight.data = torch.eye(3)
    routing = router(torch.tensor([[math.log(3.0), -5.0, 0.0]]), RouterInput())
    assert routing.index_TK.tolist() == [[0, 2]]
    assert routing.weight_TK[0].tolist() == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("bias", [True, False])
def test_the_bias_is_there_where_the_spec_says_so(bias: bool) -> None:
    router = SMoERouter(RouterSpec(width=4, num_experts=3, top_k=1, bias=bias))
    assert (router.gate.bias is not None) is bias


def test_the_step_may_ask_for_another_k() -> None:
    router = SMoERouter(RouterSpec(width=4, num_experts=3, top_k=1))
    routing = router(torch.randn(5, 4), RouterInput(StepContext(top_k=3)))
    assert routing.index_TK.shape == (5, 3)
    expected_TK = routing.logits_TN.softmax(-1).gather(1, routing.index_TK)
    torch.testing.assert_close(routing.weight_TK, expected_TK)
