"""GShard: the second of two experts is kept with probability min(1, 2 g2) in training."""

from __future__ import annotations

import math

import pytest
import torch

from simsmoe_cli.moe.balance import load_fraction
from simsmoe_cli.moe.routers.base import RouterInput, RouterSpec
from simsmoe_cli.moe.routers.gshard import GShardRouter
from simsmoe_cli.recipe.routers import GShardSettings

EXPERTS = 5


def make(random_second: bool = True) -> GShardRouter:
    """A router whose logits are its first inputs."""
    settings = GShardSettings(random_second=random_second)
    router = GShardRouter(RouterSpec(width=8, num_experts=EXPERTS, top_k=2, settings=settings))
    with torch.no_grad():
        router.gate.weight.copy_(torch.eye(EXPERTS, 8))
        router.gate.bias.zero_()
    return router


def tokens(g2: float, count: int = 20_000) -> torch.Tensor:
    """Tokens whose second expert, 3, has this share of the two; the first is 1."""
    x_TD = torch.full((count, 8), -5.0)
    x_TD[:, 1] = 2.0
    x_TD[:, 3] = 2.0 + math.log(g2 / (1 - g2))
    return x_TD


@pytest.mark.parametrize("g2", [0.05, 0.2, 0.4, 0.4999])
def test_the_second_is_kept_twice_as_often_as_its_weight(g2: float) -> None:
    torch.manual_seed(0)
    routing = make()(tokens(g2), RouterInput())
    assert routing.partial
    assert (routing.index_TK[:, 0] == 1).all()
    kept_T = routing.index_TK[:, 1] == 3
    assert (kept_T | (routing.index_TK[:, 1] == EXPERTS)).all()
    assert kept_T.float().mean().item() == pytest.approx(min(1, 2 * g2), abs=0.015)
    torch.testing.assert_close(routing.weight_TK[:, 0], torch.full((20_000,), 1 - g2))
    torch.testing.assert_close(routing.weight_TK[kept_T, 1], torch.full((int(kept_T.sum()),), g2))


def test_experts_left_out_do_not_count_as_load() -> None:
    torch.manual_seed(0)
    routing = make()(tokens(0.1), RouterInput())
    load_N = load_fraction(routing.index_TK, EXPERTS)
    assert load_N[3].item() == pytest.approx(0.2 / 1.2, abs=0.01)
    expected = EXPERTS * (load_N * routing.logits_TN.softmax(-1).mean(0)).sum()
    torch.testing.assert_close(routing.losses["balance"], expected)


@pytest.mark.parametrize(("random_second", "training"), [(True, False), (False, True)])
def test_both_are_kept_in_evaluation_and_where_asked(random_second: bool, training: bool) -> None:
    routing = make(random_second).train(training)(tokens(0.01, 100), RouterInput())
    assert not routing.partial
    assert routing.index_TK.tolist() == [[1, 3]] * 100
