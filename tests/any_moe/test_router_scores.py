"""What a router gives shows in the weights of the chosen experts.

Shapes: T tokens, N experts, K experts per token.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.any_moe.router_scores import is_distribution, read_router, scores_of

T, N = 200, 8
SCORES = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "root of softplus": lambda logits: F.softplus(logits).sqrt(),
}


def logits_TN() -> Tensor:
    return 2 * torch.randn(T, N, generator=torch.Generator().manual_seed(0))


def chosen(score_TN: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    weight_TK, index_TK = score_TN.topk(top_k)
    return index_TK, weight_TK


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("kind", SCORES)
def test_the_function_is_the_one_that_gives_the_weights(kind: str, normalised: bool) -> None:
    """Whether weights are normalised and scaled afterwards changes nothing."""
    score_TN = SCORES[kind](logits_TN())
    index_TK, weight_TK = chosen(score_TN, 3)
    if normalised:
        weight_TK = 2.5 * weight_TK / weight_TK.sum(-1, keepdim=True)
    found = read_router([logits_TN()], index_TK, weight_TK)
    assert (found.output, found.kind) == (0, kind)
    share_TN = score_TN / score_TN.sum(-1, keepdim=True)
    given_TN = found.logits([logits_TN()], N)
    assert given_TN is not None
    assert torch.allclose(given_TN.softmax(-1), share_TN, atol=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_one_expert_a_token_is_enough(kind: str) -> None:
    index_TK, weight_TK = chosen(SCORES[kind](logits_TN()), 1)
    assert read_router([logits_TN()], index_TK, weight_TK).kind == kind


def test_probabilities_are_known_by_their_sums() -> None:
    probability_TN = logits_TN().softmax(-1)
    found = read_router([probability_TN], *chosen(probability_TN, 2))
    assert found.kind == "probabilities"
    given_TN = found.logits([probability_TN], N)
    assert given_TN is not None
    assert torch.allclose(given_TN.softmax(-1), probability_TN, atol=1e-6)
    assert not is_distribution(logits_TN(), 2)
    dropped_TN = torch.zeros(T, N).scatter(1, torch.arange(T)[:, None] % N, 1.0)
    assert not is_distribution(dropped_TN, 1), "a choice is not a distribution over all experts"


def test_weights_that_no_function_gives_leave_the_distribution_unknown() -> None:
    index_TK, weight_TK = chosen(logits_TN(), 2)
    found = read_router([logits_TN()], index_TK, torch.rand(weight_TK.shape))
    assert (found.output, found.kind) == (None, "")
    assert found.logits([logits_TN()], N) is None


def test_experts_that_compute_nothing_are_left_out() -> None:
    wider_TN = torch.cat([logits_TN(), torch.zeros(T, 2)], dim=1)
    found = read_router([wider_TN], *chosen(wider_TN.softmax(-1), 3))
    given_TN = found.logits([wider_TN], N)
    assert given_TN is not None
    assert given_TN.shape == (T, N)


def test_scores_have_a_column_for_each_expert() -> None:
    index_TK, weight_TK = chosen(logits_TN(), 2)
    given = [index_TK, logits_TN()[:, : N - 1], weight_TK, logits_TN().view(4, -1, N)]
    (found,) = scores_of(given, N, weight_TK)
    assert torch.equal(found, logits_TN())
    assert scores_of([logits_TN()], N, logits_TN()) == [], "the weights themselves are not scores"
