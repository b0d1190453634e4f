"""Debiased CKA of each pair of experts on the tokens that were sent to both.

This is the similarity that SimSMoE (2406.15883) speaks of. Probes, the report and what `attach`
writes use it.

Shapes: T tokens, D width, N experts, K experts per token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from simsmoe_cli.similarity.cka import debiased_linear_cka

FEWEST_SHARED = 32  # tokens: debiased CKA of fewer says little


def received(index_TK: Tensor, experts: int) -> Tensor:
    """Which experts each token was sent to, [T, N] bool; index N stands for no expert."""
    received_TN = torch.zeros(
        index_TK.shape[0], experts + 1, dtype=torch.bool, device=index_TK.device
    )
    return received_TN.scatter_(1, index_TK, True)[:, :experts]


def shared_counts(received_TN: Tensor) -> Tensor:
    """How many tokens each pair was sent to, [N, N] fp64; each expert's own on the diagonal."""
    return (received_TN.float().T @ received_TN.float()).double().cpu()


def cka_of_routed(rows_RD: Tensor, index_TK: Tensor, experts: int) -> Tensor:
    """Debiased CKA of each pair on the tokens sent to both, [N, N] fp32 on the CPU.

    It is nan where they are fewer than `FEWEST_SHARED`. Waits on the device.

    Args:
        rows_RD: outputs of the chosen experts, one row per slot, sorted by expert and then by
            token; without rows of empty slots.
        index_TK: chosen experts; N for an empty slot.
        experts: N.
    """
    received_TN = received(index_TK, experts)
    count_NN = shared_counts(received_TN)
    rows = rows_RD.split(count_NN.diagonal().long().tolist())
    found_NN = torch.full((experts, experts), math.nan)
    for i, j in (count_NN >= FEWEST_SHARED).triu(1).nonzero().tolist():
        both_T = received_TN[:, i] & received_TN[:, j]
        of_i, of_j = rows[i][both_T[received_TN[:, i]]], rows[j][both_T[received_TN[:, j]]]
        found_NN[i, j] = found_NN[j, i] = debiased_linear_cka(of_i.float(), of_j.float()).cpu()
    return found_NN


def routed_rows(x_TD: Tensor, index_TK: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """What the chosen experts are given, sorted by expert and then by token, [R, D], and the rows
    of each expert, [N] int64; empty slots are left out."""
    received_TN = received(index_TK, experts)
    token_R = received_TN.T.nonzero()[:, 1]
    return x_TD.index_select(0, token_R), received_TN.sum(0)
