"""Debiased CKA of each pair of experts on the tokens that were sent to both.

Shapes: N experts, T rows, D features, K experts per token, R rows of one expert, S rows of both.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.collapse.measure.block_sums import hsic
from simsmoe_cli.collapse.measure.layer import Layer, matrix, spread
from simsmoe_cli.collapse.measure.linear_cka import CANCELLED
from simsmoe_cli.collapse.measure.routing import received
from simsmoe_cli.similarity.rows import standardise, whole_mask

FEWEST_SHARED = 32  # rows: debiased CKA of fewer says little


def measure_layer(layer: Layer) -> dict[str, Any]:
    cka_NN = cka_of_shared(layer.outputs_NTD, layer.index_TK, layer.bounds.products)
    if not layer.counts.defined:
        cka_NN.fill_(torch.nan)
    return {"cka_shared": matrix(cka_NN)}


def cka_of_shared(outputs_NTD: Tensor, index_TK: Tensor, products: float = math.inf) -> Tensor:
    """Debiased CKA of each pair on the rows sent to both, [N, N]; nan where they are too few.

    Each expert's Gram matrix of the rows sent to it is made once; a pair's kernels are parts of
    two of them.

    Args:
        outputs_NTD: every expert's outputs on the same rows.
        index_TK: chosen experts; N for an empty slot.
        products: multiplications the Gram matrices may cost; with more, evenly spread rows are
            taken instead of all.
    """
    experts, rows, width = outputs_NTD.shape
    received_TN = received(index_TK, experts).to(outputs_NTD.device)
    cost = float(received_TN.sum(0).double().square().sum()) * width
    if cost > products:
        some_T = spread(rows, max(1, int(rows * (products / cost) ** 0.5)))
        some_T = some_T.to(outputs_NTD.device)
        outputs_NTD, received_TN = outputs_NTD[:, some_T], received_TN[some_T]
    count_NN = received_TN.float().T @ received_TN.float()
    found_NN = torch.full((experts, experts), math.nan)
    wanted = (count_NN >= FEWEST_SHARED).triu(1).nonzero().tolist()
    grams: dict[int, Tensor] = {}
    place_TN = received_TN.long().cumsum(0) - 1
    for expert in sorted({expert for pair in wanted for expert in pair}):
        x_RD = outputs_NTD[expert, received_TN[:, expert]].float()
        x_RD = standardise(x_RD, whole_mask(x_RD, None))[0]
        grams[expert] = (x_RD @ x_RD.T).cpu()
    received_TN, place_TN = received_TN.cpu(), place_TN.cpu()
    for i, j in wanted:
        both_T = received_TN[:, i] & received_TN[:, j]
        first_S, second_S = place_TN[both_T, i], place_TN[both_T, j]
        found_NN[i, j] = found_NN[j, i] = _debiased(
            grams[i][first_S][:, first_S], grams[j][second_S][:, second_S]
        )
    return found_NN


def _debiased(k_SS: Tensor, m_SS: Tensor) -> float:
    """Debiased CKA of two Gram matrices of the same rows; nan where undefined."""
    kernels = []
    for gram_SS in (k_SS.double(), m_SS.double()):
        mean_S = gram_SS.mean(0)
        centred_SS = gram_SS - mean_S[:, None] - mean_S + mean_S.mean()
        largest = gram_SS.diagonal().max()
        if centred_SS.diagonal().max() <= CANCELLED * largest:  # the same output for all rows
            return math.nan
        kernels.append(centred_SS / centred_SS.diagonal().max())
    both = torch.stack(kernels).flatten(1)
    diagonal_NT = torch.stack([kernel.diagonal() for kernel in kernels])
    inner_NN = both @ both.T
    hsic_NN = hsic(inner_NN, diagonal_NT, -diagonal_NT)
    own_N = hsic_NN.diagonal()
    if (own_N <= CANCELLED * inner_NN.diagonal() / len(k_SS) ** 2).any():
        return math.nan
    return float(hsic_NN[0, 1] / own_N.prod().sqrt())
