"""How far apart two experts' outputs are on the same rows, relative to their size.

CKA does not see rotation or scale, and the cosine does not see scale: two experts compute the same
only where this is near 0.

Shapes: N experts, T rows, D features, R rows at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.collapse.measure.block_sums import Standardised
from simsmoe_cli.collapse.measure.layer import Layer, matrix

_CHUNK = 2**23  # entries of the largest temporaries


def measure_layer(layer: Layer) -> dict[str, Any]:
    return {"apart": matrix(relative_difference(layer.standardised))}


def relative_difference(x: Standardised) -> Tensor:
    """Root mean square of E_i - E_j over that of both, [N, N] fp64: 0 the same, sqrt(2) unrelated.

    It is nan where an output is not finite, or both are 0. Products are summed in fp32, so the same
    outputs may differ by up to about 1e-3.
    """
    # One scale for all: in units of the largest, no product overflows.
    scale = x.scale_N11.max()
    product_NN = torch.zeros(x.experts, x.experts, dtype=torch.float64)
    for part_NRD in x.outputs_NTD.split(max(1, _CHUNK // (x.experts * x.width)), dim=1):
        flat_NF = (part_NRD.float() / scale).flatten(1)
        product_NN += (flat_NF @ flat_NF.T).double().cpu()
    square_N = product_NN.diagonal()
    both_NN = square_N[:, None] + square_N
    apart_NN = (both_NN - 2 * product_NN).clamp(min=0) / (both_NN / 2)
    return apart_NN.sqrt().fill_diagonal_(0)
