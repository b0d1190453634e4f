"""ReMoE: ReLU weights, and an L1 norm steered until as many experts are used as asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from simsmoe_cli.moe.layer import MoELayer
from simsmoe_cli.moe.routers.base import RouterInput, RouterSpec, StepContext
from simsmoe_cli.moe.routers.remoe import ReMoERouter
from simsmoe_cli.recipe.routers import ReMoESettings
from simsmoe_cli.recipe.schema import Recipe

WIDTH, EXPERTS = 16, 8


def make(experts: int = EXPERTS, top_k: int = 2, **settings: Any) -> ReMoERouter:
    torch.manual_seed(0)
    given = ReMoESettings(**settings)
    return ReMoERouter(RouterSpec(width=WIDTH, num_experts=experts, top_k=top_k, settings=given))


def make_layer(top_k: int = 2, experts: int = EXPERTS, **settings: Any) -> MoELayer:
    torch.manual_seed(0)
    recipe = {
        "model": {"width": WIDTH},
        "moe": {"experts": experts, "hidden": 16, "top_k": top_k, "router": "remoe"},
        "remoe": settings,
    }
    return MoELayer(Recipe.model_validate(recipe))


def test_a_token_gets_the_experts_with_positive_logits_weighted_by_them() -> None:
    layer = make_layer().eval()
    x = torch.randn(1, 40, WIDTH)
    output = layer(x, StepContext())
    logits_TN = x[0] @ layer.router.gate.weight.T
    outputs_NTD = layer.experts.dense(x[0])
    assert (logits_TN <= 0).any()
    expected_TD = torch.zeros(40, WIDTH)
    for expert in range(EXPERTS):
        expected_TD += logits_TN[:, expert : expert + 1].clamp(min=0) * outputs_NTD[expert]
    torch.testing.assert_close(output.hidden[0], expected_TD, atol=1e-6, rtol=1e-4)
    used_TN = torch.zeros(40, EXPERTS + 1, dtype=torch.bool)
    used_TN.scatter_(1, output.routing.index_TK, True)
    assert torch.equal(used_TN[:, :EXPERTS], logits_TN > 0)


def test_the_loss_is_the_load_balanced_norm_times_the_coefficient() -> None:
    router = make(l1_start=0.25)
    x_TD = torch.randn(30, WIDTH)
    routing = router(x_TD, RouterInput())
    weight_TN = routing.logits_TN.clamp(min=0)
    total = 0.0
    for expert in range(EXPERTS):
        f = EXPERTS / (2 * 30) * int((weight_TN[:, expert] > 0).sum())
        for token in range(30):
            total += f * weight_TN[token, expert].item()
    assert routing.losses["sparsity"].item() == pytest.approx(0.25 * total / 30)
    assert routing.metrics["experts_per_token"] == (weight_TN > 0).sum() / 30


def test_experts_are_taxed_by_their_share() -> None:
    router = make(l1_start=1.0)
    routing = router(torch.randn(64, WIDTH), RouterInput())
    routing.logits_TN.retain_grad()
    routing.losses["sparsity"].backward()
    grad_TN = routing.logits_TN.grad
    assert grad_TN is not None
    share_N = (routing.logits_TN > 0).float().mean(0)
    torch.testing.assert_close(grad_TN.amax(0), share_N / (2 / EXPERTS) / 64)
    assert not grad_TN[routing.logits_TN <= 0].any()


def biased(bias: float) -> tuple[ReMoERouter, Tensor]:
    """A router that uses all experts (bias > 0) or none (bias < 0)."""
    router = make(l1_start=1e-3, l1_factor=1.5)
    with torch.no_grad():
        router.gate.bias.fill_(bias)
        router.coefficient.fill_(0.01)
    return router, torch.zeros(5, WIDTH)


@pytest.mark.parametrize(("bias", "step"), [(1.0, 1.5), (-1.0, 1 / 1.5)])
def test_the_coefficient_rises_with_too_many_experts_and_falls_with_too_few(
    bias: float, step: float
) -> None:
    router, x_TD = biased(bias)
    router.eval()(x_TD, RouterInput())
    assert router.coefficient.item() == pytest.approx(0.01)
    for power in (1, 2, 3):
        router.train()(x_TD, RouterInput())
        assert router.coefficient.item() == pytest.approx(0.01 * step**power)


@pytest.mark.parametrize(("bias", "bound"), [(1.0, 1.0), (-1.0, 1e-3)])
def test_the_coefficient_stays_within_its_bounds(bias: float, bound: float) -> None:
    router, x_TD = biased(bias)
    for _ in range(50):
        router(x_TD, RouterInput())
    assert router.coefficient.item() == pytest.approx(bound)


def test_at_the_target_the_coefficient_stays() -> None:
    router = make(l1_start=0.01)
    with torch.no_grad():
        router.gate.weight.zero_()
        router.gate.bias.copy_(torch.tensor([1.0, 1, -1, -1, -1, -1, -1, -1]))
    router(torch.randn(5, WIDTH), RouterInput())
    assert router.coefficient.item() == pytest.approx(0.01)


@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (8, 1), (4, 2)])
def test_training_reaches_the_target_sparsity(experts: int, top_k: int) -> None:
    """A layer that learns a function, and would use more experts if nothing held it back."""
    layer = make_layer(top_k, experts)
    target = torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 32), torch.nn.Tanh(), torch.nn.Linear(32, WIDTH)
    ).requires_grad_(False)
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)
    used, losses = [], []
    for _ in range(400):
        x = torch.randn(1, 256, WIDTH) + 1
        output = layer(x, StepContext())
        task = (output.hidden - target(x)).square().mean()
        optimizer.zero_grad()
        (task + output.losses["sparsity"]).backward()
        optimizer.step()
        used.append(output.routing.metrics["experts_per_token"].item())
        losses.append(task.item())
    assert max(used[:100]) > 1.25 * top_k
    assert sum(used[-150:]) / 150 == pytest.approx(top_k, rel=0.1)
    assert losses[-1] < 0.5 * losses[0]


def test_evaluation_at_k_keeps_the_strongest_of_the_active() -> None:
    router = make().eval()
    x_TD = torch.randn(50, WIDTH)
    everything = router(x_TD, RouterInput())
    for k in (1, 3, EXPERTS):
        routing = router(x_TD, RouterInput(StepContext(top_k=k)))
        for logits_N, index_K in zip(routing.logits_TN, routing.index_TK.tolist(), strict=True):
            active = [n for n in logits_N.argsort(descending=True).tolist() if logits_N[n] > 0]
            assert sorted(n for n in index_K if n < EXPERTS) == sorted(active[:k])
    assert torch.equal(routing.index_TK, everything.index_TK)
