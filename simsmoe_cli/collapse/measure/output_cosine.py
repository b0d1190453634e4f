"""Mean cosine of two experts' outputs on the same row, `agreement.pairwise_cosine` in less memory.

Shapes: N experts, T rows, D features, R rows at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.collapse.measure.block_sums import Standardised
from simsmoe_cli.collapse.measure.layer import Layer, matrix
from simsmoe_cli.similarity.standardise import SMALLEST

_CHUNK = 2**23  # entries of the largest temporaries


def measure_layer(layer: Layer) -> dict[str, Any]:
    return {"cosine": matrix(mean_cosine(layer.standardised))}


def mean_cosine(x: Standardised) -> Tensor:
    """Mean over rows of the cosine of all pairs, [N, N] fp64; nan where undefined."""
    total_NN = torch.zeros(x.experts, x.experts, dtype=torch.float64)
    for part_NRD in x.outputs_NTD.split(max(1, _CHUNK // (x.experts * x.width)), dim=1):
        x_RND = (part_NRD.float() / x.scale_N11).transpose(0, 1).contiguous()
        product_RNN = x_RND @ x_RND.mT
        norm_RN = product_RNN.diagonal(0, 1, 2).sqrt()
        product_RNN /= (norm_RN[:, :, None] * norm_RN[:, None]).clamp(min=SMALLEST**2)
        total_NN += product_RNN.sum(0).double().cpu()
    varies_N = x.varies_N.cpu()
    return torch.where(varies_N[:, None] & varies_N, total_NN / x.rows, torch.nan)
