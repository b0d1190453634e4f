"""Sums over blocks of rows, from which the HSIC of all pairs of experts is computed in one pass.

The outputs of a layer can be gigabytes. The caller holds them once; here they are centred and
scaled block by block.

Shapes: N experts, T rows, D features, B blocks, R rows of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from simsmoe_cli.similarity.standardise import ROUNDING, SMALLEST


class Standardised:
    """All experts' outputs, centred and scaled as by `standardise` when they are used.

    Args:
        outputs_NTD: every expert's outputs on the same rows.
    """

    def __init__(self, outputs_NTD: Tensor):
        self.outputs_NTD = outputs_NTD
        self.experts, self.rows, self.width = outputs_NTD.shape
        means, scales, varies = [], [], []
        for x_TD in outputs_NTD:
            peak = torch.stack(torch.aminmax(x_TD)).abs().max().float()  # NaN where there is one
            usable = (peak > SMALLEST) & (peak < torch.inf)
            peak = torch.where(usable, peak, 1.0)
            variance_D, mean_D = torch.var_mean(x_TD.float() / peak, dim=0, correction=0)
            norm = variance_D.sum().sqrt()
            moves = usable & (norm > ROUNDING * self.width**0.5)
            means.append(torch.where(moves, mean_D * peak, 0.0))
            scales.append(torch.where(moves, norm * peak, 1.0))
            varies.append(moves)
        self.mean_N1D = torch.stack(means)[:, None]
        self.scale_N11 = torch.stack(scales)[:, None, None]
        self.varies_N = torch.stack(varies)
        self.all_vary = bool(self.varies_N.all())

    def part(self, rows: slice) -> Tensor:
        """Some rows of all experts, [N, R, D] fp32; zeros for an expert that is undefined."""
        x_NRD = self.outputs_NTD[:, rows].float() - self.mean_N1D
        x_NRD /= self.scale_N11
        if not self.all_vary:
            x_NRD[~self.varies_N] = 0
        return x_NRD


@dataclass
class BlockSums:
    """The sums that HSIC_1 is computed from, by blocks of rows, all fp64.

    Attributes:
        own_BNN: <K_i, K_j> of rows and columns in block b.
        row_BNN: of rows in block b and all columns.
        k_NT: the diagonals of K_i.
        inside_NTB: sums of K_i over the columns of block b.
    """

    own_BNN: Tensor
    row_BNN: Tensor
    k_NT: Tensor
    inside_NTB: Tensor


def block_sums(
    x: Standardised, parts: Sequence[slice], pairs: Sequence[tuple[int, int]], scale: float
) -> BlockSums:
    """The sums of all pairs of experts.

    Args:
        parts: the blocks.
        pairs: different blocks to compare.
        scale: the weight of pairs of different blocks.
    """
    shape = (len(parts), x.experts, x.experts)
    own_BNN = torch.zeros(shape, dtype=torch.float64)
    row_BNN = torch.zeros(shape, dtype=torch.float64)
    partners: dict[int, list[int]] = {b: [] for b in range(len(parts))}
    for b, c in pairs:
        partners[b].append(c)
    sum_NBD = torch.stack([x.part(rows).sum(1) for rows in parts], dim=1)
    k_parts, inside_parts = [], []
    for b, rows in enumerate(parts):
        x_NRD = x.part(rows)
        k_parts.append((x_NRD * x_NRD).sum(-1).double().cpu())
        inside_parts.append((x_NRD @ sum_NBD.mT).double().cpu())
        own_BNN[b] = _inner(x_NRD, x_NRD)
        row_BNN[b] += own_BNN[b]
        for c in partners[b]:
            product_NN = scale * _inner(x_NRD, x.part(parts[c]))
            row_BNN[b] += product_NN
            row_BNN[c] += product_NN
    return BlockSums(own_BNN, row_BNN, torch.cat(k_parts, dim=1), torch.cat(inside_parts, dim=1))


def _inner(x_NRD: Tensor, y_NRD: Tensor) -> Tensor:
    """Sums over a block of K_i K_j, [N, N] fp64."""
    gram: Tensor = (x_NRD @ y_NRD.mT).flatten(1)
    return (gram @ gram.T).double().cpu()


def hsic(inner_NN: Tensor, k_NT: Tensor, others_NT: Tensor) -> Tensor:
    """HSIC_1 of all pairs of experts, [N, N] fp64.

    Args:
        inner_NN: <K_i, K_j>, diagonals included.
        k_NT: the diagonals.
        others_NT: row sums without the diagonals; minus the diagonals where rows are centred.
    """
    n = k_NT.shape[1]
    sum_N = others_NT.sum(1)
    total_NN = inner_NN - k_NT @ k_NT.T - 2 / (n - 2) * others_NT @ others_NT.T
    total_NN += sum_N.outer(sum_N) / ((n - 1) * (n - 2))
    return total_NN / (n * (n - 3))


def ratio(
    hsic_IN: Tensor, own_N: Tensor, defined_N: Tensor, some_I: Tensor | None = None
) -> Tensor:
    """CKA [..., I, N] from HSIC: symmetric, 1 on the diagonal, nan where undefined.

    Args:
        hsic_IN: of some experts with all.
        own_N: of each with itself, [..., N].
        defined_N: experts that have a CKA, if their own is above 0.
        some_I: which experts those are; all of them if None.
    """
    some_I = torch.arange(own_N.shape[-1]) if some_I is None else some_I
    defined_N = defined_N & (own_N > 0)
    root_N = torch.where(defined_N, own_N, torch.nan).sqrt()
    cka_IN = hsic_IN / (root_N[..., some_I, None] * root_N[..., None, :])
    same_IN = some_I[:, None] == torch.arange(own_N.shape[-1])
    return torch.where(same_IN & defined_N[..., None, :], 1.0, cka_IN)
