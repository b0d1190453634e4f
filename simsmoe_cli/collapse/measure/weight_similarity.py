"""Similarity of experts' weights: as whole vectors, and by matching hidden units in any order.

Shapes: N experts, H hidden units, F weights of a unit, U units looked up, E looked-up units of all
experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.collapse.findings import defined
from simsmoe_cli.collapse.measure.layer import Layer, matrix, spread

FEWEST_UNITS = 4  # hidden units looked up in each of the other experts
FEWEST_WEIGHTS = 256  # of a unit in each matrix that are compared
_CHUNK = 2**23  # entries of the largest temporaries


def measure_weights(layer: Layer) -> dict[str, Any]:
    matched = matched_units(layer.parts_NHF, layer.options.matching, layer.generator(500_000))
    return {
        "weight_cosine": matrix(flat_cosine(layer.parts_NHF)),
        "weight_matched": matrix(matched.found),
        "weight_matched_chance": defined(matched.chance),
        "weight_matched_units": matched.units,
        "weight_matched_of_unit": matched.weights,
    }


def flat_cosine(parts_NHF: Sequence[Tensor]) -> Tensor:
    """Cosine of experts' weights, mean over their matrices, [N, N] fp64; nan for all zeros."""
    total: Tensor | None = None
    for part_NHF in parts_NHF:
        experts, _, width = part_NHF.shape
        product_NN = torch.zeros(experts, experts, dtype=torch.float64)
        for some_NHF in part_NHF.split(max(1, _CHUNK // (experts * width)), dim=1):
            flat = some_NHF.flatten(1).float()
            product_NN += (flat @ flat.T).double().cpu()
        norm_N = product_NN.diagonal().sqrt()
        cosine_NN = product_NN / (norm_N[:, None] * norm_N)
        total = cosine_NN if total is None else total + cosine_NN
    assert total is not None
    return total / len(parts_NHF)


@dataclass(frozen=True)
class MatchedUnits:
    """How well the hidden units of one expert match those of another.

    Attributes:
        found: mean over units of the largest cosine, over both directions, [N, N] fp64; nan for an
            expert whose weights are all 0 or not all finite.
        chance: its value for a pair whose one side had its entries shuffled within each unit.
        units: of each expert that were looked up, U.
        weights: share of a unit's weights that were compared.
    """

    found: Tensor
    chance: float
    units: int
    weights: float


def matched_units(
    parts_NHF: Sequence[Tensor], budget: float, generator: torch.Generator
) -> MatchedUnits:
    """Find the best match of each hidden unit of an expert among those of another.

    A unit is the vector of its weights in all matrices, each part scaled to norm 1. So rescaling
    between two matrices changes nothing, and neither does the order of units.

    Args:
        parts_NHF: for each matrix (and bias) its entries by hidden unit.
        budget: multiplications allowed, about. If all units cost more, only evenly spread ones are
            looked up, among all units of the other expert. If even `FEWEST_UNITS` cost more, only
            evenly spread weights of each matrix are compared; fewer weights make unrelated units
            look more similar, in `chance` as well.
        generator: for the chance level, on the CPU.
    """
    experts, hidden, _ = parts_NHF[0].shape
    of_one = experts * experts * hidden
    widths = [part.shape[2] for part in parts_NHF]
    fewest = min(FEWEST_UNITS, hidden)
    fits = min(1.0, budget / (of_one * fewest * sum(widths)))
    taken = [min(width, max(FEWEST_WEIGHTS, int(fits * width))) for width in widths]
    asked = int(max(fewest, min(hidden, budget // (of_one * sum(taken)))))
    some_U = spread(hidden, asked)
    columns = [spread(width, some) for width, some in zip(widths, taken, strict=True)]

    def units(expert: int, which: Tensor | slice) -> Tensor:
        scaled = [
            torch.nn.functional.normalize(
                part[expert, which][:, some.to(part.device)].float(), dim=-1
            )
            for part, some in zip(parts_NHF, columns, strict=True)
        ]
        unit_F: Tensor = torch.cat(scaled, dim=-1) / len(scaled) ** 0.5
        return unit_F

    every = slice(None)
    wanted_EF = torch.cat([units(expert, some_U) for expert in range(experts)])
    found_NN = torch.empty(experts, experts, dtype=torch.float64)
    undefined_N = torch.zeros(experts, dtype=torch.bool)
    for expert in range(experts):
        unit_HF = units(expert, every)
        ends = torch.stack(torch.aminmax(unit_HF))  # NaN where there is one
        undefined_N[expert] = bool(~ends.isfinite().all() | ~ends.any())
        best_E = torch.cat(
            [(part_EF @ unit_HF.T).amax(1) for part_EF in wanted_EF.split(max(1, _CHUNK // hidden))]
        )
        found_NN[:, expert] = best_E.view(experts, asked).double().mean(1)
    found_NN[undefined_N] = torch.nan
    found_NN[:, undefined_N] = torch.nan
    order_HF = torch.rand(hidden, sum(taken), generator=generator).argsort(1)
    strangers_HF = unit_HF.gather(1, order_HF.to(unit_HF.device))
    chance = (wanted_EF[:asked] @ strangers_HF.T).amax(1).mean().item()
    return MatchedUnits((found_NN + found_NN.T) / 2, chance, asked, sum(taken) / sum(widths))
