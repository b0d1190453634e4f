"""Random: uniform in training, a fixed function of the token id in evaluation."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.moe.routers.base import RouterInput, RouterSpec, Routing
from simsmoe_cli.moe.routers.random_ import MASK, RandomRouter, mixed

EXPERTS = 8


def make(seed: int = 0, layer: int = 0) -> RandomRouter:
    spec = RouterSpec(width=4, num_experts=EXPERTS, top_k=2, seed=seed, layer=layer, layers=4)
    return RandomRouter(spec)


def route(router: RandomRouter, ids_T: torch.Tensor) -> Routing:
    routing: Routing = router(torch.zeros(len(ids_T), 4), RouterInput(token_ids_T=ids_T))
    return routing


def assert_uniform(index_TK: torch.Tensor) -> None:
    """All pairs of distinct experts as often as any other, to within five deviations."""
    pair_T = index_TK.sort(-1).values @ torch.tensor([EXPERTS, 1])
    counts = torch.bincount(pair_T, minlength=EXPERTS**2).view(EXPERTS, EXPERTS)
    pairs = counts[tuple(torch.triu_indices(EXPERTS, EXPERTS, 1))]
    assert pairs.sum() == len(index_TK)
    fair = len(index_TK) / len(pairs)
    assert (pairs - fair).abs().max() < 5 * fair**0.5


def test_training_draws_anew_and_uniformly() -> None:
    torch.manual_seed(0)
    router, ids_T = make(), torch.zeros(20_000, dtype=torch.int64)
    first, second = route(router, ids_T).index_TK, route(router, ids_T).index_TK
    assert_uniform(first)
    assert (first != second).any(-1).float().mean() > 0.9


def test_evaluation_is_uniform_over_token_ids_and_fixed() -> None:
    router, ids_T = make().eval(), torch.arange(20_000)
    index_TK = route(router, ids_T).index_TK
    assert_uniform(index_TK)
    assert torch.equal(route(router, ids_T.flip(0)).index_TK.flip(0), index_TK)


@pytest.mark.parametrize("other", [make(seed=1), make(layer=1), make(seed=MASK + 5)])
def test_layers_and_seeds_differ(other: RandomRouter) -> None:
    ids_T = torch.arange(5000)
    ours, theirs = (route(router.eval(), ids_T).index_TK for router in (make(), other))
    same = (ours == theirs).all(-1).float().mean().item()
    assert same == pytest.approx(1 / (EXPERTS * (EXPERTS - 1)), abs=0.01)


def test_the_hash_is_one_of_32_bits() -> None:
    """By Python's whole numbers, which know no overflow."""

    def by_hand(x: int) -> int:
        for _ in range(2):
            x = (((x >> 16) ^ x) * 0x45D9F3B) % 2**32
        return (x >> 16) ^ x

    numbers = [0, 1, 2, 205, 2**16, 2**31, 2**32 - 1]
    assert mixed(torch.tensor(numbers)).tolist() == [by_hand(x) for x in numbers]
