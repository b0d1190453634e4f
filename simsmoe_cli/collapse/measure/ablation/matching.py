"""Matches the hidden units of two experts: each unit of one to one unit of the other.

The assignment with the largest total similarity is found by shortest augmenting paths with
potentials (Kuhn 1955; Jonker and Volgenant 1987), one path per unit that a greedy start leaves
over. The search along a path is vectorised, so a path costs O(H) steps of O(H) each at most.

Shapes: H hidden units, F weights of a unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_UNITS = 4096  # a matching of more takes minutes


def matched_order(parts_NHF: Sequence[Tensor], keep: int, give: int) -> Tensor:
    """For each hidden unit of an expert, the unit of another that it matches best, [H] int64.

    Units are compared by the cosines of their weights, each matrix by itself.

    Args:
        parts_NHF: for each matrix its entries by hidden unit, as `Source.weights` gives them.
        keep, give: the two experts.
    """
    similarity_HH: Tensor | None = None
    for part in parts_NHF:
        own_HF, other_HF = (
            torch.nn.functional.normalize(part[expert].float(), dim=-1) for expert in (keep, give)
        )
        product_HH = own_HF @ other_HF.T
        similarity_HH = product_HH if similarity_HH is None else similarity_HH + product_HH
    assert similarity_HH is not None
    return torch.from_numpy(assign(-similarity_HH.double().cpu().numpy()))


def assign(cost_HH: NDArray[np.float64]) -> NDArray[np.int64]:
    """The column of each row in the assignment of the smallest total cost, [H]."""
    size = len(cost_HH)
    column_potential = cost_HH.min(0)
    row_potential = (cost_HH - column_potential).min(1)
    row_of = np.full(size, -1)
    column_of = np.full(size, -1)
    # Greedy: a row takes its best column if that is free.
    for row, column in enumerate((cost_HH - column_potential).argmin(1)):
        if row_of[column] < 0:
            row_of[column], column_of[row] = row, column
    for start in np.flatnonzero(column_of < 0):
        distance = np.full(size, np.inf)
        before = np.full(size, -1)  # the row from which a column was reached
        done = np.zeros(size, dtype=bool)
        row, least = int(start), 0.0
        while True:
            reduced = cost_HH[row] - row_potential[row] - column_potential
            nearer = ~done & (least + reduced < distance)
            distance[nearer], before[nearer] = (least + reduced)[nearer], row
            column = int(np.where(done, np.inf, distance).argmin())
            least, done[column] = float(distance[column]), True
            if row_of[column] < 0:
                break
            row = int(row_of[column])
        # Potentials keep reduced costs at 0 or more, and at 0 along the assignment.
        inside = done & (distance < least)
        column_potential[inside] += distance[inside] - least
        row_potential[row_of[inside]] -= distance[inside] - least
        row_potential[start] += least
        while True:  # turn the path over
            row = int(before[column])
            row_of[column], column_of[row], column = row, column, int(column_of[row])
            if row == start:
                break
    return column_of
