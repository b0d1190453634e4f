"""Tokens that experts prefer: planted, counted by hand, and none where routing ignores tokens."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.collapse.measure.specialisation import token_specialisation
from tests.collapse.measure.made_outputs import generator

NAMES = {3: "the", 5: "of", 9: "cat"}


def text_of(ids: list[int]) -> list[str]:
    return [NAMES.get(token, "?") for token in ids]


def test_the_tokens_an_expert_takes_above_its_share_are_named_first() -> None:
    ids = torch.tensor([3] * 40 + [5] * 40 + [9] * 20)
    index = torch.zeros(100, 1, dtype=torch.int64)
    index[:40, 0] = torch.tensor([0] * 30 + [1] * 10)  # "the": three quarters to expert 0
    index[40:80, 0] = torch.tensor([0] * 10 + [1] * 30)
    index[80:, 0] = 2  # "cat" goes to expert 2 alone
    found = token_specialisation(index, ids, 4, text_of)
    zero, one, two, three = found["favourites"]
    assert [(token.text, token.count, token.share) for token in zero] == [("the", 40, 0.75)]
    assert zero[0].over_fair == pytest.approx(0.75 / 0.4)
    assert [token.text for token in one] == ["of"]
    assert two[0].over_fair == pytest.approx(1 / 0.2)
    assert three == []
    # Of expert 0's 40 tokens, 30 share their id with 29 of 39 others, 10 with 9 of 39.
    assert found["vocabulary"][0] == pytest.approx((30 * 29 + 10 * 9) / 40 / 39)
    assert found["vocabulary"][2:] == [1, None]


def test_routing_that_ignores_tokens_has_no_vocabulary() -> None:
    """Also of rare tokens, which would look special if an occurrence counted for itself."""
    ids = torch.randint(3000, (12_000,), generator=generator())
    index = torch.rand(12_000, 6, generator=generator(1)).topk(2).indices
    found = token_specialisation(index, ids, 6, lambda ids: [])
    for specialised in found["vocabulary"]:
        assert specialised == pytest.approx(2 / 6, abs=0.01)


def test_rare_tokens_are_not_named_and_unknown_text_is_a_number() -> None:
    ids = torch.tensor([7] * 9 + [8] * 12)
    index = torch.tensor([[0]] * 9 + [[1]] * 12)
    found = token_specialisation(index, ids, 2, lambda ids: [])
    assert [[token.text for token in some] for some in found["favourites"]] == [[], ["8"]]
