"""Expert choice: each expert takes the tokens it scores highest, future ones included."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.errors import EXIT_USAGE, UserError
from simsmoe_cli.moe.routers.base import Router, RouterInput, RouterSpec, StepContext
from simsmoe_cli.moe.routers.expert_choice import ExpertChoiceRouter
from simsmoe_cli.moe.routers.smoe import SMoERouter
from simsmoe_cli.recipe.load import load_recipe

EXPERTS = 4


def make(kind: type[Router] = ExpertChoiceRouter, top_k: int = 2) -> Router:
    torch.manual_seed(0)
    return kind(RouterSpec(width=8, num_experts=EXPERTS, top_k=top_k)).eval()


@pytest.mark.parametrize(
    ("tokens", "top_k", "asked", "capacity"),
    [(32, 2, None, 16), (32, 1, None, 8), (32, 2, 4, 32), (10, 1, None, 3), (1, 1, None, 1)],
)
def test_every_expert_takes_its_best_tokens_and_as_many_as_any_other(
    tokens: int, top_k: int, asked: int | None, capacity: int
) -> None:
    x_TD = torch.randn(tokens, 8)
    routing = make(top_k=top_k)(x_TD, RouterInput(StepContext(top_k=asked)))
    score_TN = routing.logits_TN.softmax(-1)
    for expert in range(EXPERTS):
        takes_TK = routing.index_TK == expert
        best = score_TN[:, expert].argsort(descending=True)[:capacity]
        taken = takes_TK.any(1).nonzero().flatten()
        assert taken.tolist() == sorted(best.tolist())
        torch.testing.assert_close(routing.weight_TK[takes_TK], score_TN[taken, expert])


def test_tokens_get_as_many_experts_as_want_them() -> None:
    routing = make(top_k=1)(torch.randn(256, 8), RouterInput())
    counts_T = (routing.index_TK < EXPERTS).sum(1)
    assert counts_T.float().mean() == 1
    assert {0, 1, 2} <= set(counts_T.tolist())


def test_it_needs_no_balance_loss() -> None:
    assert make()(torch.randn(8, 8), RouterInput()).losses == {}


def test_a_token_to_come_changes_where_an_earlier_one_goes() -> None:
    """Why a causal language model must not use it; with SMoE it cannot happen."""
    x_TD = torch.randn(32, 8)
    for kind, leaks in ((ExpertChoiceRouter, True), (SMoERouter, False)):
        router = make(kind)
        changed = False
        for seed in range(10):
            torch.manual_seed(seed)
            other_TD = torch.cat([x_TD[:16], 3 * torch.randn(16, 8)])
            one, two = (router(x, RouterInput()).index_TK[:16] for x in (x_TD, other_TD))
            changed |= not torch.equal(one, two)
        assert changed == leaks


def test_language_models_are_refused_it_unless_they_ask() -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("quickstart", ["moe.router=expert-choice"])
    assert caught.value.code == EXIT_USAGE
    assert str(caught.value) == (
        "recipe quickstart: moe.router: expert-choice picks a token by what comes after it, which "
        "a language model is to predict, so its loss would mean nothing. Choose another, or set "
        "expert_choice.allow_leak to true to train it anyway."
    )
    asked = ["moe.router=expert-choice", "expert_choice.allow_leak=true"]
    assert load_recipe("quickstart", asked).expert_choice.allow_leak
    with pytest.raises(UserError, match="has no effect with router smoe"):
        load_recipe("quickstart", ["expert_choice.allow_leak=true"])
