"""Finds experts whose weights are not finite, or whose outputs are not finite for finite inputs.

Shapes: N experts, T rows, D features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.collapse.measure.layer import Layer


def measure_weights(layer: Layer) -> dict[str, Any]:
    outputs_NTD, finite_T = layer.outputs_NTD, layer.finite_T
    all_finite = bool(finite_T.all())
    return {
        "non_finite": [
            expert
            for expert in range(len(outputs_NTD))
            if not _finite(outputs_NTD[expert] if all_finite else outputs_NTD[expert, finite_T])
            or not all(_finite(part[expert]) for part in layer.parts_NHF)
        ],
        "non_finite_inputs": layer.counts.non_finite_inputs,
        "non_finite_scores": layer.counts.non_finite_scores,
    }


def _finite(values: Tensor) -> bool:
    """Whether all are finite: the largest and the smallest are NaN where any value is."""
    return not values.numel() or bool(torch.stack(torch.aminmax(values)).isfinite().all())
