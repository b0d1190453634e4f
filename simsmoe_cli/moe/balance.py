"""Auxiliary losses for routers: the balance loss and the z-loss.

Balance: Shazeer et al. 1701.06538 as simplified by Fedus et al. 2101.03961, eq. 4, for any K:
N * sum_i f_i * P_i, which is 1 at uniform load. SimSMoE's published code divides the sum of the
probabilities by T*K and not by T, so its value is ours divided by K.
Several ranks each compute a part of a batch. Over all ranks, f_i is that of the whole batch (Qiu et
al. 2501.11873: experts may then specialise on the texts of one rank) and P_i that of this rank's
tokens: the mean of the losses, weighted by tokens, is the loss of the whole batch, gradients
included. With the load of each rank alone, every rank's tokens must be balanced by themselves, and
the loss depends on the number of ranks.
z-loss: Zoph et al. 2202.08906, eq. 5.

Shapes: T tokens, N experts, K experts per token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simsmoe_cli.parallel.world import sum_over_ranks


def load_fraction(index_TK: Tensor, num_experts: int, *, over_ranks: bool = False) -> Tensor:
    """Fraction of routed slots each expert received, [N] fp32, summing to 1.

    Empty slots (index N) are not counted.

    Args:
        index_TK: chosen experts.
        num_experts: N.
        over_ranks: whether the slots of all ranks are counted.
    """
    chosen_RN = index_TK.flatten().unsqueeze(1) == torch.arange(num_experts, device=index_TK.device)
    count_N = chosen_RN.float().sum(0)
    if over_ranks:
        count_N = sum_over_ranks(count_N)
    return count_N / count_N.sum().clamp(min=1)


def routed_slots(index_TK: Tensor, num_experts: int) -> Tensor:
    """How many slots each expert received, [N] fp32; empty slots (index N) are not counted."""
    count_N = torch.zeros(num_experts + 1, device=index_TK.device)
    ones_R = torch.ones(index_TK.numel(), device=index_TK.device)
    return count_N.scatter_add(0, index_TK.flatten(), ones_R)[:num_experts]


def balance_loss(probability_TN: Tensor, index_TK: Tensor, *, over_ranks: bool = False) -> Tensor:
    """N * sum_i f_i * P_i: f_i the fraction of slots of expert i, P_i its mean probability.

    Args:
        probability_TN: of this rank's tokens.
        index_TK: chosen experts.
        over_ranks: whether f_i counts the slots of all ranks.
    """
    num_experts = probability_TN.shape[1]
    fraction_N = load_fraction(index_TK, num_experts, over_ranks=over_ranks)
    return num_experts * (fraction_N * probability_TN.mean(0)).sum()


def z_loss(logits_TN: Tensor) -> Tensor:
    """mean(logsumexp(logits)^2): keeps router logits small."""
    return torch.logsumexp(logits_TN.float(), dim=-1).square().mean()
