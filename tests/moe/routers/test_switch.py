"""Switch: one expert, weighted with its probability; noise in training alone."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.moe.routers.base import RouterInput, RouterSpec
from simsmoe_cli.moe.routers.switch import SwitchRouter
from simsmoe_cli.recipe.routers import SwitchSettings


def make(jitter: float = 0.1) -> SwitchRouter:
    torch.manual_seed(0)
    settings = SwitchSettings(jitter=jitter)
    return SwitchRouter(RouterSpec(width=16, num_experts=6, top_k=1, settings=settings))


def test_the_most_probable_expert_with_its_probability() -> None:
    router = make().eval()
    x_TD = torch.randn(50, 16)
    routing = router(x_TD, RouterInput())
    probability_TN = (x_TD @ router.gate.weight.T + router.gate.bias).softmax(-1)
    highest_T, expert_T = probability_TN.max(-1)
    assert torch.equal(routing.index_TK[:, 0], expert_T)
    torch.testing.assert_close(routing.weight_TK[:, 0], highest_T)


def test_the_task_alone_teaches_the_router() -> None:
    """With one expert, a weight renormalised over the chosen would always be 1."""
    router = make()
    router(torch.randn(50, 16), RouterInput()).weight_TK.sum().backward()
    assert router.gate.weight.grad is not None
    assert router.gate.weight.grad.abs().max() > 0


def test_noise_scales_what_the_router_sees_by_one_plus_or_minus_eps() -> None:
    router = make(jitter=0.2)
    with torch.no_grad():
        router.gate.weight.copy_(torch.eye(6, 16))
        router.gate.bias.zero_()
    x_TD = torch.ones(4000, 16)
    seen_TN = router(x_TD, RouterInput()).logits_TN
    assert 0.8 <= seen_TN.min() < 0.81
    assert 1.19 < seen_TN.max() <= 1.2
    assert seen_TN.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(x_TD, torch.ones_like(x_TD))
    torch.testing.assert_close(router.eval()(x_TD, RouterInput()).logits_TN, x_TD[:, :6])


def test_without_noise_training_routes_as_evaluation() -> None:
    router, x_TD = make(jitter=0), torch.randn(50, 16)
    one, other = router(x_TD, RouterInput()), router.eval()(x_TD, RouterInput())
    assert torch.equal(one.logits_TN, other.logits_TN)
