"""Hash: a balanced table that never changes."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.moe.routers.base import RouterInput, RouterSpec, Routing, StepContext
from simsmoe_cli.moe.routers.hash_ import HashRouter


def make(vocabulary: int = 205, experts: int = 16, seed: int = 0, layer: int = 0) -> HashRouter:
    return HashRouter(
        RouterSpec(
            width=8, num_experts=experts, top_k=2, vocab_size=vocabulary, seed=seed, layer=layer
        )
    )


def route(router: HashRouter, ids_T: torch.Tensor, top_k: int | None = None) -> Routing:
    given = RouterInput(StepContext(top_k=top_k), ids_T)
    routing: Routing = router(torch.randn(len(ids_T), 8), given)
    return routing


@pytest.mark.parametrize(
    ("vocabulary", "experts"), [(205, 16), (256, 8), (27, 4), (3, 8), (5, 1), (1000, 64)]
)
def test_every_place_is_balanced_over_the_vocabulary(vocabulary: int, experts: int) -> None:
    router = make(vocabulary, experts)
    index_VN = route(router, torch.arange(vocabulary), top_k=experts).index_TK
    assert torch.equal(index_VN.sort(-1).values, torch.arange(experts).expand_as(index_VN))
    for place_V in index_VN.T:
        count_N = torch.bincount(place_V, minlength=experts)
        assert count_N.max() - count_N.min() <= 1


def test_all_pairs_of_experts_share_token_ids() -> None:
    """A table whose second expert always follows the first would let most pairs share none."""
    index_VK = route(make(2048, 8), torch.arange(2048)).index_TK.sort(-1).values
    pairs = {(i, j) for i, j in index_VK.tolist()}
    assert len(pairs) == 8 * 7 // 2


def test_routing_is_a_function_of_the_token_id_alone() -> None:
    router = make()
    ids_T = torch.randint(0, 205, (500,))
    index_TK = route(router, ids_T).index_TK
    again_TK = route(router.eval(), ids_T.flip(0)).index_TK.flip(0)
    assert torch.equal(index_TK, again_TK)
    first = {}
    for token, experts in zip(ids_T.tolist(), index_TK.tolist(), strict=True):
        assert first.setdefault(token, experts) == experts


def test_the_table_follows_from_seed_and_layer_and_nothing_else() -> None:
    torch.manual_seed(1)
    one = make(seed=3, layer=2)
    torch.manual_seed(2)
    assert torch.equal(one.order_VN, make(seed=3, layer=2).order_VN)
    for other in (make(seed=4, layer=2), make(seed=3, layer=1)):
        assert (one.order_VN[:, 0] != other.order_VN[:, 0]).float().mean() > 0.8


def test_the_table_is_in_the_checkpoint() -> None:
    one, other = make(seed=1), make(seed=2)
    other.load_state_dict(one.state_dict())
    ids_T = torch.arange(205)
    assert torch.equal(route(one, ids_T).index_TK, route(other, ids_T).index_TK)


def test_softmax_of_the_scores_is_the_weights_and_they_still_rank_the_rest() -> None:
    router = make(experts=4)
    routing = route(router, torch.arange(50), top_k=2)
    probability_TN = routing.logits_TN.softmax(-1)
    assert torch.equal(probability_TN.gather(1, routing.index_TK), routing.weight_TK)
    rest_TN = routing.logits_TN.scatter(1, routing.index_TK, -torch.inf)
    third_T = route(router, torch.arange(50), top_k=3).index_TK[:, 2]
    assert torch.equal(rest_TN.argmax(-1), third_T)
