"""Cosine of the rows of a router's matrix: how alike the tokens are that two experts ask for.

Shapes: N experts, F weights of a row.
"""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from simsmoe_cli.collapse.measure.layer import Layer, matrix


def measure_weights(layer: Layer) -> dict[str, Any]:
    rows_NF = layer.source.router_rows(layer.index)
    if rows_NF is None:
        return {"router_cosine": []}
    unit_NF = F.normalize(rows_NF.detach().double(), dim=-1)
    cosine_NN = (unit_NF @ unit_NF.T).cpu()
    undefined_N = ~(rows_NF.isfinite().all(-1) & rows_NF.any(-1)).cpu()
    cosine_NN[undefined_N] = cosine_NN[:, undefined_N] = float("nan")
    return {"router_cosine": matrix(cosine_NN)}
