"""Which experts of a layer are exact copies: their weights are equal, and so are their outputs.

Each hidden unit of an expert, with all weights that belong to it, gets one 64-bit number computed
from the bits of its weights. Experts with the same numbers in the same order are copies; with
the same numbers in another order they are copies whose hidden units are renumbered. Arithmetic is
exact, so nothing depends on rounding; -0 counts as 0. Outputs are compared as well, as experts may
have parameters (biases of the output) that belong to no hidden unit.

Shapes: N experts, H hidden units, F weights of a unit in one matrix, T rows, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.collapse.findings import Copies
from simsmoe_cli.collapse.measure.layer import Layer, spread

# Outputs of one function differ by less than this, relative to their root mean square: they are
# summed in another order where hidden units are.
SAME_OUTPUT = 1e-2
LOOKED_AT = 32  # rows
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def measure_weights(layer: Layer) -> dict[str, Any]:
    return {"copies": exact_copies(layer.parts_NHF, layer.outputs_NTD)}


def exact_copies(parts_NHF: Sequence[Tensor], outputs_NTD: Tensor) -> list[Copies]:
    """Groups of experts that are the same, in the order of their first members.

    Args:
        parts_NHF: for each matrix its entries by hidden unit, as `Source.weights` gives them.
        outputs_NTD: of all experts on the same rows.
    """
    unit_H = {expert: _numbers(parts_NHF, expert).cpu() for expert in _candidates(outputs_NTD)}
    ordered_H = {expert: numbers_H.sort().values for expert, numbers_H in unit_H.items()}
    groups: list[list[int]] = []
    for expert in unit_H:
        for group in groups:
            first = group[0]
            if torch.equal(ordered_H[first], ordered_H[expert]) and _same(
                outputs_NTD[first], outputs_NTD[expert]
            ):
                group.append(expert)
                break
        else:
            groups.append([expert])
    return [
        Copies(
            experts=group,
            renumbered=any(
                not torch.equal(unit_H[group[0]], unit_H[expert]) for expert in group[1:]
            ),
        )
        for group in groups
        if len(group) > 1
    ]


def _candidates(outputs_NTD: Tensor) -> list[int]:
    """Experts whose outputs on some rows are near those of another expert; others cannot be
    copies."""
    rows = outputs_NTD.shape[1]
    some_R = spread(rows, LOOKED_AT)
    x_NS = outputs_NTD[:, some_R].flatten(1).nan_to_num(0, 0, 0).double()
    x_NS = x_NS / x_NS.abs().amax().clamp(min=1e-300)
    square_N = x_NS.square().sum(1)
    apart_NN = square_N[:, None] + square_N - 2 * x_NS @ x_NS.T
    near_NN = apart_NN <= (10 * SAME_OUTPUT) ** 2 * square_N[:, None]
    near_NN.fill_diagonal_(False)
    found: list[int] = (near_NN | near_NN.T).any(1).nonzero().flatten().tolist()
    return found


def _numbers(parts_NHF: Sequence[Tensor], expert: int) -> Tensor:
    """A number for each hidden unit of an expert, [H] int64: a sum of products modulo 2^64."""
    generator = torch.Generator().manual_seed(0)
    total_H: Tensor | None = None
    for part in parts_NHF:
        bits_HF = (part[expert] + 0.0).contiguous().view(_INTEGERS[part.element_size()])
        factor_F = torch.randint(-(2**63), 2**63 - 1, bits_HF.shape[-1:], generator=generator)
        product_H = (bits_HF.long() * factor_F.to(bits_HF.device)).sum(-1)
        total_H = product_H if total_H is None else total_H + product_H
    assert total_H is not None
    return total_H


def _same(first_TD: Tensor, second_TD: Tensor) -> bool:
    """Whether outputs are equal up to rounding; NaN counts as equal to NaN."""
    there_TD = first_TD.isfinite() & second_TD.isfinite()
    if not torch.equal(first_TD.isfinite(), second_TD.isfinite()):
        return False
    size = torch.where(there_TD, first_TD, 0.0).double().square().mean().sqrt()
    apart = torch.where(there_TD, first_TD - second_TD, 0.0).double().square().mean().sqrt()
    return bool(apart <= SAME_OUTPUT * size)
