"""Debiased CKA of each pair of experts on the tokens that were sent to both.

This is the similarity that SimSMoE (2406.15883) speaks of. Probes, the report and what `attach`
writes use it.

Shapes: T tokens, D width, N experts, K experts per token, R rows, P pairs, n shared tokens.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from simsmoe_cli.similarity.cka import debiased_linear_cka

FEWEST_SHARED = 32  # tokens: debiased CKA of fewer says little
GROUP_ENTRIES = 1 << 20  # of the largest temporary while pairs are compared
ALIKE = 0.9


def received(index_TK: Tensor, experts: int) -> Tensor:
    """Which experts each token was sent to, [T, N] bool; index N stands for no expert."""
    received_TN = torch.zeros(
        index_TK.shape[0], experts + 1, dtype=torch.bool, device=index_TK.device
    )
    return received_TN.scatter_(1, index_TK, True)[:, :experts]


def shared_counts(received_TN: Tensor) -> Tensor:
    """How many tokens each pair was sent to, [N, N] fp64 on the CPU; each expert's own on the
    diagonal."""
    with torch.autocast(received_TN.device.type, enabled=False):  # bf16 has no number 257
        return (received_TN.float().T @ received_TN.float()).double().cpu()


def cka_of_routed(rows_RD: Tensor, received_TN: Tensor) -> Tensor:
    """Debiased CKA of each pair on the tokens sent to both, [N, N] fp32 on the CPU.

    It is nan where they are fewer than `FEWEST_SHARED`. Pairs that share about as many tokens are
    compared together; for each such group the host waits on the device.

    Args:
        rows_RD: outputs of the experts, a row for each token that an expert was sent, sorted by
            expert and then by token.
        received_TN: from `received`.
    """
    received_NT, device = received_TN.T, rows_RD.device
    row_NT = (received_NT.flatten().cumsum(0) - 1).view(received_NT.shape)
    count_NN = shared_counts(received_TN)
    found_NN = torch.full(count_NN.shape, math.nan)
    pair_P2 = (count_NN >= FEWEST_SHARED).triu(1).nonzero()
    count_P, order_P = count_NN[pair_P2[:, 0], pair_P2[:, 1]].long().sort(descending=True)
    pair_P2 = pair_P2[order_P]
    for group in _groups(count_P.tolist(), rows_RD.shape[1]):
        most = int(count_P[group][0])
        mask_Pn = (torch.arange(most) < count_P[group, None]).to(device)
        first_P, second_P = pair_P2[group].T.to(device)
        both_PT = received_NT[first_P] & received_NT[second_P]
        nothing_Pn = torch.zeros(mask_Pn.shape, dtype=torch.int64, device=device)
        token_Pn = nothing_Pn.masked_scatter(mask_Pn, both_PT.nonzero()[:, 1])
        first_PnD = rows_RD[row_NT[first_P].gather(1, token_Pn)].float()
        second_PnD = rows_RD[row_NT[second_P].gather(1, token_Pn)].float()
        i, j = pair_P2[group].T
        found_NN[i, j] = debiased_linear_cka(first_PnD, second_PnD, mask_Pn).cpu()
        found_NN[j, i] = found_NN[i, j]
    return found_NN


def routed_rows(x_TD: Tensor, received_TN: Tensor) -> tuple[Tensor, Tensor]:
    """What the chosen experts are given, sorted by expert and then by token, [R, D], and the rows
    of each expert, [N] int64."""
    token_R = received_TN.T.nonzero()[:, 1]
    return x_TD.index_select(0, token_R), received_TN.sum(0)


def _groups(counts: Sequence[int], width: int) -> Iterator[slice]:
    """Pairs to compare together: as many as `GROUP_ENTRIES` allow, with at least `ALIKE` of the
    tokens of the first, so that little is computed for nothing.

    Args:
        counts: shared tokens of each pair, the most first.
        width: D.
    """
    first = 0
    while first < len(counts):
        most = counts[first]
        last = min(len(counts), first + max(1, GROUP_ENTRIES // (most * max(most, width))))
        alike = bisect_right(counts, -ALIKE * most, first, last, key=lambda count: -count)
        yield slice(first, alike)
        first = alike
