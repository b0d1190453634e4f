"""Debiased CKA of each pair of experts on the tokens that were sent to both.

Shapes: N experts, T rows, D features, K experts per token.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from simsmoe_cli.collapse.measure.layer import Layer, matrix, spread
from simsmoe_cli.similarity.shared import cka_of_routed, received, shared_counts

PRODUCTS = 3  # <K, L>, <K, K> and <L, L>


def measure_layer(layer: Layer) -> dict[str, Any]:
    cka_NN = cka_of_shared(layer.outputs_NTD, layer.index_TK, layer.bounds.products)
    if not layer.counts.defined:
        cka_NN.fill_(math.nan)
    return {"cka_shared": matrix(cka_NN)}


def cka_of_shared(outputs_NTD: Tensor, index_TK: Tensor, products: float = math.inf) -> Tensor:
    """Debiased CKA of each pair on the rows sent to both, [N, N]; nan where they are too few.

    Args:
        outputs_NTD: every expert's outputs on the same rows.
        index_TK: chosen experts; N for an empty slot.
        products: multiplications that the pairs may cost; if all rows cost more, evenly spread rows
            are used.
    """
    experts, rows, width = outputs_NTD.shape
    received_TN = received(index_TK, experts).to(outputs_NTD.device)
    count_NN = shared_counts(received_TN)
    cost = PRODUCTS * width * float(count_NN.triu(1).square().sum())
    if cost > products:
        some_T = spread(rows, max(1, int(rows * (products / cost) ** 0.5))).to(outputs_NTD.device)
        outputs_NTD, received_TN = outputs_NTD[:, some_T], received_TN[some_T]
    return cka_of_routed(outputs_NTD[received_TN.T], received_TN)
