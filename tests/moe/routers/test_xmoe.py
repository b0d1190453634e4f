"""XMoE: cosine routing, blind to the scale of tokens and experts, with a learned temperature."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from simsmoe_cli.moe.routers.base import RouterInput, RouterSpec
from simsmoe_cli.moe.routers.xmoe import PublishedXMoERouter, XMoERouter, router
from simsmoe_cli.recipe.routers import XMoESettings


def make(experts: int = 8, **settings: Any) -> XMoERouter:
    torch.manual_seed(0)
    made = router(
        RouterSpec(width=32, num_experts=experts, top_k=2, settings=XMoESettings(**settings))
    )
    assert isinstance(made, XMoERouter)
    return made


def published() -> PublishedXMoERouter:
    torch.manual_seed(0)
    settings = XMoESettings(published=True)
    made = router(RouterSpec(width=32, num_experts=8, top_k=2, settings=settings))
    assert isinstance(made, PublishedXMoERouter)
    return made


@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e4])
def test_the_scale_of_a_token_or_an_expert_does_not_matter(scale: float) -> None:
    xmoe, x_TD = make(), torch.randn(40, 32)
    plain = xmoe(x_TD, RouterInput())
    scaled = xmoe(scale * x_TD, RouterInput())
    assert torch.equal(plain.index_TK, scaled.index_TK)
    torch.testing.assert_close(plain.logits_TN, scaled.logits_TN)
    torch.testing.assert_close(plain.weight_TK, scaled.weight_TK)
    with torch.no_grad():
        xmoe.embeddings[3] *= scale
    torch.testing.assert_close(xmoe(x_TD, RouterInput()).logits_TN, plain.logits_TN)


def test_scores_are_cosines_over_tau() -> None:
    xmoe, x_TD = make(tau=0.5), torch.randn(40, 32)
    z_Tr = x_TD @ xmoe.projection.weight.T
    expected = F.cosine_similarity(z_Tr[:, None], xmoe.embeddings[None], dim=-1) / 0.5
    torch.testing.assert_close(xmoe(x_TD, RouterInput()).logits_TN, expected)


@pytest.mark.parametrize(
    ("experts", "dimension"),
    [(2, 8), (8, 8), (16, 8), (22, 8), (24, 16), (32, 16), (64, 32)],
)
def test_the_small_space_has_half_as_many_dimensions_as_experts_in_eights(
    experts: int, dimension: int
) -> None:
    assert make(experts).embeddings.shape == (experts, dimension)
    assert make(experts, dimension=5).embeddings.shape == (experts, 5)


def test_tau_starts_as_given_and_learns_both_ways_above_its_floor() -> None:
    xmoe = make(tau=0.3, tau_min=0.01)
    assert xmoe.tau.item() == pytest.approx(0.3)
    optimizer = torch.optim.SGD([xmoe.log_tau], lr=1.0)
    for direction, reached in ((1.0, 0.02), (-1.0, 0.2)):
        for _ in range(2000):
            optimizer.zero_grad()
            (direction * xmoe.tau).backward()
            torch.nn.utils.clip_grad_norm_([xmoe.log_tau], 0.01)
            assert xmoe.log_tau.grad != 0
            optimizer.step()
            assert xmoe.tau > 0.01
            if direction * (xmoe.tau.item() - reached) < 0:
                break
        assert direction * (xmoe.tau.item() - reached) < 0


def test_tau_is_reported() -> None:
    xmoe = make(tau=0.4)
    metrics = xmoe(torch.randn(4, 32), RouterInput()).metrics
    assert metrics["tau"].item() == pytest.approx(0.4)


def test_the_baseline_is_not_blind_to_scale() -> None:
    xmoe, x_TD = published(), torch.randn(40, 32)
    plain = xmoe(x_TD, RouterInput())
    scaled = xmoe(3 * x_TD, RouterInput())
    torch.testing.assert_close(scaled.logits_TN, 3 * plain.logits_TN)


def test_the_baseline_sets_its_embeddings_back_in_training_alone() -> None:
    xmoe, x_TD = published(), torch.randn(40, 32)
    before = xmoe.embeddings.detach().clone()
    evaluated = xmoe.eval()(x_TD, RouterInput())
    assert torch.equal(xmoe.embeddings, before)
    trained = xmoe.train()(x_TD, RouterInput())
    torch.testing.assert_close(xmoe.embeddings.norm(dim=1), torch.full((8,), 1.5))
    torch.testing.assert_close(F.normalize(xmoe.embeddings), F.normalize(before))
    torch.testing.assert_close(trained.logits_TN, evaluated.logits_TN)


def test_gradients_of_two_passes_of_the_baseline_add_up() -> None:
    """Although each pass sets the embeddings back in place."""
    xmoe, x_TD = published(), torch.randn(40, 32)
    xmoe(x_TD, RouterInput())
    total = sum(xmoe(part_TD, RouterInput()).logits_TN.square().sum() for part_TD in x_TD.chunk(2))
    assert isinstance(total, torch.Tensor)
    total.backward()
    assert xmoe.embeddings.grad is not None
    together = xmoe.embeddings.grad.clone()
    xmoe.zero_grad()
    xmoe(x_TD, RouterInput()).logits_TN.square().sum().backward()
    torch.testing.assert_close(together, xmoe.embeddings.grad)
