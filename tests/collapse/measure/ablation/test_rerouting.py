"""Where tokens go: followed by hand for each token, and against a router that lost an expert."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.collapse.measure.ablation.rerouting import average, hand_over, leave_out
from simsmoe_cli.collapse.measure.ablation.weighting import Weighting
from simsmoe_cli.collapse.sources.replay import Slots

LOGITS = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 3.0, 1.0, 2.0], [1.0, 0.0, 3.0, 2.0]])


def routed(top_k: int = 2, over: str = "chosen") -> tuple[Slots, Weighting]:
    rule = Weighting("exp", over)
    index = LOGITS.topk(top_k).indices
    return Slots(index, rule.weights(LOGITS, index)), rule


@pytest.mark.parametrize("over", ["chosen", "all", ""])
def test_a_left_out_expert_is_one_that_the_router_does_not_have(over: str) -> None:
    slots, rule = routed(over=over)
    found = leave_out(LOGITS, slots, 1, rule)
    assert found.index_TK.tolist() == [[0, 2], [2, 3], [2, 3]]
    without = LOGITS[:, [0, 2, 3]]  # the router without a row for expert 1
    renumbered = torch.tensor([0, -1, 1, 2])[found.index_TK]
    expected = rule.weights(without, renumbered)
    expected[2] = slots.weight_TK[2]  # a token that it did not have is not touched
    torch.testing.assert_close(found.weight_TK, expected)


def test_a_token_that_has_all_others_gets_none_instead() -> None:
    slots, rule = routed(top_k=4)
    found = leave_out(LOGITS, slots, 0, rule)
    assert (found.index_TK == 4).sum(1).tolist() == [1, 1, 1]
    assert found.weight_TK[found.index_TK == 4].tolist() == [0, 0, 0]
    torch.testing.assert_close(found.weight_TK.sum(1), torch.ones(3))


def test_without_a_rule_the_weight_is_kept() -> None:
    slots, _ = routed()
    found = leave_out(LOGITS, slots, 1, Weighting())
    torch.testing.assert_close(found.weight_TK, slots.weight_TK)


def test_tokens_are_handed_over_with_their_weights() -> None:
    slots, _ = routed()
    found = hand_over(slots, keep=2, give=1)
    assert found.index_TK.tolist() == [[0, 2], [2, 3], [2, 3]]
    assert torch.equal(found.weight_TK, slots.weight_TK)


def test_an_average_shares_the_weight_of_both() -> None:
    slots, _ = routed()
    found = average(slots, keep=1, give=0, share=0.75, experts=4)
    total = torch.zeros(3, 5).scatter_add_(1, found.index_TK, found.weight_TK)
    own = torch.zeros(3, 5).scatter_add_(1, slots.index_TK, slots.weight_TK)
    pair = own[:, 0] + own[:, 1]
    torch.testing.assert_close(total[:, 1], 0.75 * pair)
    torch.testing.assert_close(total[:, 0], 0.25 * pair)
    torch.testing.assert_close(total[:, 2:4], own[:, 2:4])
    assert found.index_TK[2].tolist() == [2, 3, 4, 4]
