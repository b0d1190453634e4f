"""Where the tokens of a layer go if an expert is left out, hands over its tokens, or is averaged.

Shapes: T tokens, N experts, K experts per token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from simsmoe_cli.collapse.measure.ablation.weighting import Weighting
from simsmoe_cli.collapse.sources.replay import Slots


def leave_out(logits_TN: Tensor, slots: Slots, expert: int, rule: Weighting) -> Slots:
    """Each token of an expert goes to the best one, by the router's scores, that it does not have.

    The expert counts as one that the router does not know, in the weights too. A token that has all
    other experts already gets none instead.

    Args:
        logits_TN: the router's scores.
        slots: of the unchanged model.
        expert: to leave out.
        rule: of the router's weights.
    """
    experts = logits_TN.shape[1]
    gone_TK = slots.index_TK == expert
    known_TN = logits_TN.float().clone()
    known_TN[:, expert] = -math.inf
    has_TN = torch.zeros(len(known_TN), experts + 1, dtype=torch.bool, device=known_TN.device)
    has_TN = has_TN.scatter_(1, slots.index_TK, True)[:, :experts]
    best_T = known_TN.masked_fill(has_TN, -math.inf).max(1)
    next_T = torch.where(best_T.values > -math.inf, best_T.indices, experts)
    index_TK = torch.where(gone_TK, next_T[:, None], slots.index_TK)
    if not rule.score:
        weight_TK = slots.weight_TK.masked_fill(index_TK == experts, 0.0)
    else:
        own_TK = rule.weights(known_TN, index_TK).to(slots.weight_TK.dtype)
        weight_TK = torch.where(gone_TK.any(1, keepdim=True), own_TK, slots.weight_TK)
    return Slots(index_TK, weight_TK)


def hand_over(slots: Slots, keep: int, give: int) -> Slots:
    """The tokens of one expert go to another, with their weights."""
    return Slots(slots.index_TK.masked_fill(slots.index_TK == give, keep), slots.weight_TK)


def average(slots: Slots, keep: int, give: int, share: float, experts: int) -> Slots:
    """Tokens of two experts get the mean of the outputs of both.

    Args:
        slots: of the unchanged model.
        keep, give: the two.
        share: of `keep` in the mean.
        experts: N.
    """
    pair_TK = (slots.index_TK == keep) | (slots.index_TK == give)
    weight_T = (slots.weight_TK * pair_TK).sum(1, keepdim=True)
    any_T = pair_TK.any(1, keepdim=True)
    both = slots.index_TK.new_tensor([keep, give])
    added_T2 = torch.where(any_T, both, experts)
    parts_T2 = torch.cat([share * weight_T, (1 - share) * weight_T], dim=1)
    return Slots(
        torch.cat([slots.index_TK.masked_fill(pair_TK, experts), added_T2], dim=1),
        torch.cat([slots.weight_TK.masked_fill(pair_TK, 0.0), parts_T2], dim=1),
    )
