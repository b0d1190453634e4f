"""Auxiliary losses for routers: the balance loss and the z-loss.

Balance: Shazeer et al. 1701.06538 as simplified by Fedus et al. 2101.03961, eq. 4, for any K:
N * sum_i f_i * P_i, which is 1 at uniform load. SimSMoE's published code divides the sum of the
probabilities by T*K and not by T, so its value is ours divided by K.
z-loss: Zoph et al. 2202.08906, eq. 5.

Shapes: T tokens, N experts, K experts per token.
"""

from __future__ import annotations

import torch
from torch import Tensor


def load_fraction(index_TK: Tensor, num_experts: int) -> Tensor:
    """Fraction of routed slots each expert received, [N] fp32, summing to 1.

    Empty slots (index N) are not counted.
    """
    chosen_RN = index_TK.flatten().unsqueeze(1) == torch.arange(num_experts, device=index_TK.device)
    count_N = chosen_RN.float().sum(0)
    return count_N / count_N.sum().clamp(min=1)


def balance_loss(probability_TN: Tensor, index_TK: Tensor) -> Tensor:
    """N * sum_i f_i * P_i: f_i the fraction of slots of expert i, P_i its mean probability."""
    num_experts = probability_TN.shape[1]
    fraction_N = load_fraction(index_TK, num_experts)
    return num_experts * (fraction_N * probability_TN.mean(0)).sum()


def z_loss(logits_TN: Tensor) -> Tensor:
    """mean(logsumexp(logits)^2): keeps router logits small."""
    return torch.logsumexp(logits_TN.float(), dim=-1).square().mean()
