"""Effective rank of each expert's outputs (Roy and Vetterli 2007).

Shapes: N experts, T rows, D features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.collapse.findings import defined
from simsmoe_cli.collapse.measure.layer import Layer, spread
from simsmoe_cli.similarity.standardise import standardise, whole_mask


def measure_layer(layer: Layer) -> dict[str, Any]:
    rank_NTD = layer.outputs_NTD[:, spread(layer.rows, layer.bounds.rank_rows)]
    return {
        "effective_rank": [defined(rank) for rank in effective_rank(rank_NTD).tolist()],
        "effective_rank_max": min(rank_NTD.shape[1] - 1, rank_NTD.shape[2]),
    }


def effective_rank(outputs_NTD: Tensor) -> Tensor:
    """exp of the entropy of the singular values of the centred rows, divided by their sum.

    Returns:
        [N] fp64 in 1 .. min(T - 1, D); nan for an expert whose output is always the same.
    """
    ranks = []
    for x_TD in outputs_NTD:
        x_TD, _, varies = standardise(x_TD, whole_mask(x_TD, None))
        x_TD = x_TD.double()
        wide = x_TD.shape[0] < x_TD.shape[1]
        square = torch.linalg.eigvalsh(x_TD @ x_TD.T if wide else x_TD.T @ x_TD)
        value = square.clamp(min=0).sqrt()
        rank = torch.special.entr(value / value.sum()).sum().exp()
        ranks.append(torch.where(varies, rank, torch.nan))
    return torch.stack(ranks).cpu()
