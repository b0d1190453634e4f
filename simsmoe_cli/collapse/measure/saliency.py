"""REAP saliency of each expert (Lasby et al. 2510.13999): what it adds to the layer's output.

It is the mean over the tokens that were sent to the expert of router weight times norm of its
output. Experts of low saliency are those that pruning by this criterion removes first.

Shapes: N experts, T rows, D features, K experts per token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.collapse.findings import defined
from simsmoe_cli.collapse.measure.layer import Layer


def measure_layer(layer: Layer) -> dict[str, Any]:
    if layer.weight_TK is None or layer.weight_TK.shape != layer.index_TK.shape:
        return {"saliency": [None] * layer.spec.experts}
    saliency_N = saliency(layer.outputs_NTD, layer.index_TK, layer.weight_TK)
    return {"saliency": [defined(value) for value in saliency_N.tolist()]}


def saliency(outputs_NTD: Tensor, index_TK: Tensor, weight_TK: Tensor) -> Tensor:
    """Mean of weight times output norm over an expert's rows, [N] fp64; nan where it has none.

    Args:
        outputs_NTD: every expert's outputs on the same rows.
        index_TK: chosen experts; N for an empty slot.
        weight_TK: their router weights.
    """
    experts = len(outputs_NTD)
    norm_TN = torch.stack([out_TD.norm(dim=-1) for out_TD in outputs_NTD], dim=1)
    none_T1 = norm_TN.new_zeros(len(norm_TN), 1)
    added_TK = torch.cat([norm_TN, none_T1], dim=1).gather(1, index_TK) * weight_TK.float()
    index_R = index_TK.flatten()
    total_N = torch.zeros(experts + 1, dtype=torch.float64, device=index_R.device)
    total_N = total_N.scatter_add(0, index_R, added_TK.flatten().double())
    count_N = torch.bincount(index_R, minlength=experts + 1)
    return (total_N / count_N)[:experts].cpu()
