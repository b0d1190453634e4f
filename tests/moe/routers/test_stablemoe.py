"""StableMoE: learn to route, distil, freeze."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.moe.routers.base import RouterInput, RouterSpec, Routing, StepContext
from simsmoe_cli.moe.routers.stablemoe import StableMoERouter, router
from simsmoe_cli.recipe.routers import StableMoESettings

EXPERTS, WIDTH, VOCABULARY, STEPS = 6, 16, 40, 100


def make(top_k: int = 2, seed: int = 0, **settings: Any) -> StableMoERouter:
    torch.manual_seed(seed)
    made = router(
        RouterSpec(
            width=WIDTH,
            num_experts=EXPERTS,
            top_k=top_k,
            vocab_size=VOCABULARY,
            settings=StableMoESettings(**settings),
        )
    )
    assert isinstance(made, StableMoERouter)
    return made


def tokens(count: int = 300, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Ids, and hidden states that follow from them but for some noise."""
    generator = torch.Generator().manual_seed(seed)
    of_id_VD = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(7))
    ids_T = torch.randint(0, VOCABULARY, (count,), generator=generator)
    noise_TD = torch.randn(count, WIDTH, generator=generator)
    return ids_T, 3 * of_id_VD[ids_T] + 0.1 * noise_TD


def route(made: StableMoERouter, step: int, seed: int = 1) -> Routing:
    ids_T, x_TD = tokens(seed=seed)
    routing: Routing = made(x_TD, RouterInput(StepContext(step, STEPS), ids_T))
    return routing


def distilled(steps: int = 60, **settings: Any) -> StableMoERouter:
    """A router whose light router learned in stage 1, from a teacher that stays as it is."""
    made = make(**settings)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    for step in range(steps):
        optimizer.zero_grad()
        routing = route(made, 0, seed=step)
        routing.losses["distill"].backward()
        optimizer.step()
    return made


def test_stage_1_routes_by_what_the_token_is() -> None:
    made = make()
    _, x_TD = tokens()
    routing = route(made, 0)
    logits_TN = x_TD @ made.embeddings.T
    torch.testing.assert_close(routing.logits_TN, logits_TN)
    top_TK, index_TK = logits_TN.topk(2)
    assert torch.equal(routing.index_TK, index_TK)
    torch.testing.assert_close(routing.weight_TK, top_TK.softmax(-1))


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_distillation_is_the_cross_entropy_with_the_weights_of_the_chosen(top_k: int) -> None:
    made = make(top_k)
    ids_T, _ = tokens()
    routing = route(made, 0)
    log_TN = (made.token_embedding.weight[ids_T] @ made.light_embeddings.T).log_softmax(-1)
    expected = -(log_TN.gather(1, routing.index_TK) * routing.weight_TK).sum(-1).mean()
    torch.testing.assert_close(routing.losses["distill"], expected)
    if top_k == 1:  # as in the paper
        paper = F.cross_entropy(made.light_logits(ids_T), routing.index_TK[:, 0])
        torch.testing.assert_close(routing.losses["distill"], paper)


def test_distillation_teaches_the_light_router_alone() -> None:
    made = make()
    route(made, 0).losses["distill"].backward()
    assert made.embeddings.grad is None
    assert made.token_embedding.weight.grad is not None
    assert made.light_embeddings.grad is not None
    made.zero_grad()
    route(made, 0).losses["balance"].backward()
    assert made.embeddings.grad is not None
    assert made.light_embeddings.grad is None


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_light_router_comes_to_agree_with_its_teacher(top_k: int) -> None:
    before = route(make(top_k), 0).metrics["agreement"].item()
    made = distilled(top_k=top_k)
    routing = route(made, 0)
    after = routing.metrics["agreement"].item()
    # By chance K of N; what the noise decides cannot be known from the id.
    assert before == pytest.approx(top_k / EXPERTS, abs=0.2)
    assert after > 0.9
    ids_T, _ = tokens()
    light_TK = made.light_logits(ids_T).topk(top_k).indices
    shared = [
        len(set(ours) & set(theirs)) / top_k
        for ours, theirs in zip(light_TK.tolist(), routing.index_TK.tolist(), strict=True)
    ]
    assert after == pytest.approx(sum(shared) / len(shared))


@pytest.mark.parametrize(("freeze_after", "first"), [(0.1, 10), (0.5, 50), (0.001, 1), (1.0, 100)])
def test_stage_2_begins_after_its_share_of_training(freeze_after: float, first: int) -> None:
    made = make(freeze_after=freeze_after)
    ids_T, _ = tokens()
    for step, frozen in ((0, False), (first - 1, False), (first, True), (STEPS, True)):
        routing = route(made, step)
        assert bool(made.frozen) == frozen
        light = torch.equal(routing.logits_TN, made.light_logits(ids_T))
        assert light == frozen


def test_in_stage_2_routing_is_a_function_of_the_token_id_alone() -> None:
    made = distilled()
    ids_T, x_TD = tokens()
    routing = made(x_TD, RouterInput(StepContext(STEPS - 1, STEPS), ids_T))
    elsewhere = made(torch.randn_like(x_TD), RouterInput(StepContext(STEPS - 1, STEPS), ids_T))
    for part in ("index_TK", "weight_TK", "logits_TN"):
        assert torch.equal(getattr(routing, part), getattr(elsewhere, part))
    table = {}
    for token, experts in zip(ids_T.tolist(), routing.index_TK.tolist(), strict=True):
        assert table.setdefault(token, experts) == experts
    top_TK = made.light_logits(ids_T).topk(2).values
    torch.testing.assert_close(routing.weight_TK, top_TK.softmax(-1))


def test_in_stage_2_nothing_learns_not_even_by_momentum_or_decay() -> None:
    made = make()
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.1, weight_decay=0.1)
    scale = torch.ones((), requires_grad=True)
    for step in range(20):
        if step == 10:
            before = {name: p.detach().clone() for name, p in made.named_parameters()}
        optimizer.zero_grad()
        routing = route(made, step, seed=step)
        task = (scale * routing.weight_TK[:, 0]).sum()
        (task + routing.losses["balance"] + routing.losses["distill"]).backward()
        optimizer.step()
    assert routing.losses == {"balance": 0, "distill": 0}
    assert routing.metrics == {}
    for name, parameter in made.named_parameters():
        assert torch.equal(parameter, before[name])


def test_evaluation_goes_by_the_stage_of_the_weights() -> None:
    made = distilled()
    ids_T, x_TD = tokens()
    learned_TN, light_TN = x_TD @ made.embeddings.T, made.light_logits(ids_T)
    for step in (0, STEPS):  # whatever step the evaluation says it is
        torch.testing.assert_close(route(made.eval(), step).logits_TN, learned_TN)
    route(made.train(), STEPS - 1)
    for step in (0, STEPS):
        assert torch.equal(route(made.eval(), step).logits_TN, light_TN)
    made.train()
    torch.testing.assert_close(route(made, 0).logits_TN, learned_TN)


def test_the_stage_is_in_the_checkpoint_and_frozen_weights_stay_frozen(tmp_path: Path) -> None:
    made = distilled()
    for frozen in (False, True):
        save_model(made, str(tmp_path / "weights"))
        loaded = make(seed=9)
        load_model(loaded, tmp_path / "weights")
        ids_T, x_TD = tokens()
        light_TN, learned_TN = made.light_logits(ids_T), x_TD @ made.embeddings.T
        expected_TN = light_TN if frozen else learned_TN
        torch.testing.assert_close(route(loaded.eval(), 0).logits_TN, expected_TN)
        # Training that goes on from there, fine-tuning for one, counts its steps anew.
        torch.testing.assert_close(route(loaded.train(), 0).logits_TN, expected_TN)
        assert bool(loaded.frozen) == frozen
        route(made, STEPS - 1)
