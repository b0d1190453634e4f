"""The balance loss is least at even load."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.moe.balance import balance_loss


@pytest.mark.parametrize("top_k", [1, 2])
def test_it_is_least_where_load_and_probability_are_even(top_k: int) -> None:
    """Over loads from even to all on one expert, each with probabilities as the load."""
    experts, tokens = 4, 24
    losses = []
    for extra in range(0, tokens + 1, 4):
        # `extra` of the tokens go to expert 0, the others to all in turn.
        first_T = torch.arange(tokens).remainder(experts)
        first_T[:extra] = 0
        index_TK = (first_T[:, None] + torch.arange(top_k)) % experts
        share_N = torch.bincount(index_TK.flatten(), minlength=experts) / index_TK.numel()
        losses.append(balance_loss(share_N.expand(tokens, experts), index_TK).item())
    assert losses[0] == pytest.approx(1)
    assert losses == sorted(losses)
    assert losses[-1] == pytest.approx(experts / top_k)


def test_empty_slots_are_no_load() -> None:
    probability_TN = torch.tensor([[0.7, 0.2, 0.1]] * 4)
    full = balance_loss(probability_TN[:2], torch.tensor([[0], [1]]))
    with_empty = balance_loss(probability_TN, torch.tensor([[0], [3], [1], [3]]))
    torch.testing.assert_close(with_empty, full)
