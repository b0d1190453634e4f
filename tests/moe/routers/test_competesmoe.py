"""CompeteSMoE: the experts' own response routes in a competition, and the router learns it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.layer import MoELayer
from simsmoe_cli.moe.routers.base import RouterInput, StepContext
from simsmoe_cli.moe.routers.competesmoe import CompeteSMoERouter, competing_layers
from simsmoe_cli.recipe.routers import CompeteSMoESettings
from simsmoe_cli.recipe.schema import Recipe

WIDTH, EXPERTS, STEPS = 8, 6, 10
EVERY_STEP = {"rate": 1.0, "warmup": 0.0}
versions = pytest.mark.parametrize("version", [1, 2025])


def make(dropout: float = 0.0, top_k: int = 2, **settings: Any) -> MoELayer:
    torch.manual_seed(0)
    recipe = {
        "model": {"width": WIDTH, "dropout": dropout, "bias": True, "activation": "relu"},
        "moe": {"experts": EXPERTS, "hidden": 16, "top_k": top_k, "router": "competesmoe"},
        "competesmoe": EVERY_STEP | settings,
    }
    return MoELayer(Recipe.model_validate(recipe))


def context(step: int = 0) -> StepContext:
    return StepContext(step=step, total_steps=STEPS)


def responses(layer: MoELayer, x_TD: Tensor, version: int) -> Tensor:
    """[T, N], expert by expert, by the definition."""
    experts = layer.experts
    assert experts.b_in is not None
    assert experts.b_out is not None
    columns = []
    for n in range(EXPERTS):
        hidden = (x_TD @ experts.w_in[n].T + experts.b_in[n]).clamp(min=0)
        out_TD = hidden @ experts.w_out[n].T + experts.b_out[n]
        if version == 1:
            columns.append(out_TD.square().sum(1).sqrt())
        else:
            columns.append((1 + out_TD.exp()).log().mean(1))
    return torch.stack(columns, dim=1)


@versions
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_in_a_competition_the_strongest_responses_route(version: int, top_k: int) -> None:
    layer = make(dropout=0.5, top_k=top_k, version=version)
    x = torch.randn(1, 64, WIDTH)
    routing = layer(x, context()).routing
    response_TN = responses(layer, x[0], version)
    strongest_TK = response_TN.argsort(dim=1, descending=True)[:, :top_k]
    assert torch.equal(routing.index_TK, strongest_TK)
    response_TK = response_TN.gather(1, strongest_TK)
    weight_TK = response_TK.exp() if version == 1 else response_TK
    torch.testing.assert_close(routing.weight_TK, weight_TK / weight_TK.sum(1, keepdim=True))
    logits_TN = x[0] @ layer.router.gate.weight.T + layer.router.gate.bias
    error_TN = logits_TN.softmax(1) - response_TN.softmax(1)
    torch.testing.assert_close(routing.losses["compete"], error_TN.square().mean())


@versions
def test_the_router_s_loss_reaches_the_router_alone(version: int) -> None:
    layer = make(version=version)
    x = torch.randn(1, 64, WIDTH, requires_grad=True)
    layer(x, context()).losses["compete"].backward()
    reached = {name for name, p in layer.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"router.gate.weight", "router.gate.bias"}


@versions
def test_the_z_loss_is_of_the_router_s_logits(version: int) -> None:
    """Also in a competition, where the experts' responses route: it must not make those small."""
    layer = make(version=version)
    layer.z_loss = True
    x = torch.randn(1, 64, WIDTH)
    z = layer(x, context()).losses["z"]
    logits_TN = layer.router.gate(x[0])
    torch.testing.assert_close(z, logits_TN.exp().sum(1).log().square().mean())
    z.backward()
    reached = {name for name, p in layer.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"router.gate.weight", "router.gate.bias"}


@versions
def test_the_task_s_gradient_reaches_the_winners_alone(version: int) -> None:
    layer = make(version=version)
    x = torch.randn(1, 4, WIDTH)
    output = layer(x, context())
    winners = set(output.routing.index_TK.flatten().tolist())
    assert 0 < len(winners) < EXPERTS
    output.hidden.square().sum().backward()
    assert layer.router.gate.weight.grad is None
    assert layer.experts.w_out.grad is not None
    touched = layer.experts.w_out.grad.flatten(1).any(1)
    assert set(touched.nonzero().flatten().tolist()) == winners


@versions
def test_experts_learn_to_respond_through_their_weights(version: int) -> None:
    """An expert that should count more on its tokens can say so."""
    layer = make(version=version)
    routing = layer(torch.randn(1, 4, WIDTH), context()).routing
    routing.weight_TK[:, 0].sum().backward()
    assert layer.experts.w_out.grad is not None
    touched = layer.experts.w_out.grad.flatten(1).any(1)
    winners = set(routing.index_TK.flatten().tolist())
    assert set(touched.nonzero().flatten().tolist()) == winners


def agreement(layer: MoELayer) -> float:
    """Share of the winners, on tokens never trained on, that the router chooses."""
    x = torch.randn(1, 2048, WIDTH, generator=torch.Generator().manual_seed(1))
    return layer(x, context()).routing.metrics["agreement"].item()


@versions
def test_the_router_learns_who_wins(version: int) -> None:
    layer = make(version=version)
    before = agreement(layer)
    optimizer = torch.optim.Adam(layer.router.parameters(), lr=0.01)
    for _ in range(200):
        output = layer(torch.randn(1, 256, WIDTH), context())
        optimizer.zero_grad()
        output.losses["compete"].backward()
        optimizer.step()
    assert before < 0.5
    assert agreement(layer) > before + 0.25


def test_agreement_is_what_evaluation_then_chooses() -> None:
    layer = make()
    x = torch.randn(1, 200, WIDTH)
    competition = layer(x, context()).routing
    by_router = layer.eval()(x, context()).routing
    shared = [
        len(set(winners) & set(chosen)) / 2
        for winners, chosen in zip(
            competition.index_TK.tolist(), by_router.index_TK.tolist(), strict=True
        )
    ]
    assert competition.metrics["agreement"].item() == pytest.approx(sum(shared) / 200)


@pytest.mark.parametrize("settings", [{"rate": 0.0}, {"warmup": 0.5}])
def test_in_other_steps_the_router_routes(settings: dict[str, float]) -> None:
    layer = make(**settings)
    x = torch.randn(1, 64, WIDTH)
    routing = layer(x, context(step=4)).routing
    logits_TN = layer.router.gate(x[0])
    expected = logits_TN.topk(2, dim=1)
    assert torch.equal(routing.index_TK, expected.indices)
    torch.testing.assert_close(routing.weight_TK, F.softmax(expected.values, dim=1))
    assert routing.losses["compete"] == 0
    assert routing.metrics == {}


def test_nobody_competes_in_evaluation() -> None:
    router = make().router.eval()
    assert isinstance(router, CompeteSMoERouter)

    def dense(x_TD: Tensor) -> Tensor:
        raise AssertionError("all experts were run")

    router(torch.randn(4, WIDTH), RouterInput(run_experts=dense))


# When who competes


def plan(steps: int = 4000, layers: int = 4, seed: int = 0, **settings: Any) -> list[set[int]]:
    given = CompeteSMoESettings(**settings)
    return [competing_layers(step, steps, layers, seed, given) for step in range(steps)]


def test_layers_compete_at_the_rate_after_the_warm_up() -> None:
    planned = plan(rate=0.1, warmup=0.25)
    assert not any(planned[:1000])
    counts = Counter(layer for layers in planned[1000:] for layer in layers)
    for layer in range(4):
        assert counts[layer] / 3000 == pytest.approx(0.1, abs=0.025)


def test_no_more_layers_than_allowed_compete_in_a_step_and_each_has_its_turn() -> None:
    planned = plan(layers=5, rate=1.0, warmup=0.0, max_layers=2)
    assert all(len(layers) == 2 for layers in planned)
    counts = Counter(layer for layers in planned for layer in layers)
    for layer in range(5):
        assert counts[layer] / 4000 == pytest.approx(0.4, abs=0.04)


def test_the_layers_of_a_model_keep_to_the_plan() -> None:
    recipe = Recipe.model_validate(
        {
            "model": {"pattern": "g", "repeats": 3, "width": WIDTH, "heads": 1},
            "moe": {"experts": EXPERTS, "hidden": 16, "router": "competesmoe"},
            "competesmoe": {"rate": 0.5, "warmup": 0.0, "max_layers": 2},
            "train": {"seed": 7},
        }
    )
    model = LanguageModel(recipe, 10)
    planned = plan(STEPS, 3, 7, rate=0.5, warmup=0.0, max_layers=2)
    assert len(set(map(frozenset, planned))) > 3
    for step, layers in enumerate(planned):
        outputs = model(torch.zeros(1, 4, dtype=torch.int64), (), context(step)).moe
        competed = {n for n, output in enumerate(outputs) if output.routing.metrics}
        assert competed == layers


def test_the_plan_follows_from_seed_and_step_alone() -> None:
    """So that a resumed run, and every rank, competes in the same steps."""
    state = torch.get_rng_state()
    assert plan(rate=0.3) == plan(rate=0.3)
    assert plan(rate=0.3) != plan(rate=0.3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_plan_is_the_same_on_every_machine() -> None:
    given = CompeteSMoESettings(rate=0.5, warmup=0.0, max_layers=2)
    planned = [sorted(competing_layers(step, 6, 4, 0, given)) for step in range(6)]
    assert planned == [[0, 3], [1, 3], [1], [1, 2], [], [0, 1]]
