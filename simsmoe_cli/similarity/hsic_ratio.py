"""From HSIC to CKA: the ratio, on one rank or over the rows of many.

Where rows are spread over ranks, HSIC is estimated on each rank's rows, the ranks' HSIC(K, L),
HSIC(K, K) and HSIC(L, L) are averaged, and only then the ratio is taken, as Nguyen et al.
(2010.15327) do over minibatches. That costs a pair three numbers, and two more that tell a value
from rounding, instead of its rows. Ranks with too few rows count for nothing.

Each rank scaled its rows by another number. Scales are put back before numbers are added, in fp64,
because the fourth power of a scale may leave the range of fp32.

Shapes: N experts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Adds up the tensors of all ranks, with gradient.
Total = Callable[[Tensor], Tensor]

# With fewer rows the value says nothing: biased CKA of two rows is always 1, and HSIC_1 of three
# rows is always 0/0.
BIASED_ROWS = 3
DEBIASED_ROWS = 4


def ratio(xy: Tensor, xx: Tensor, yy: Tensor, defined: Tensor) -> Tensor:
    """xy / sqrt(xx yy), nan where undefined; no gradient passes through what is undefined."""
    xx, yy = torch.where(defined, xx, 1.0), torch.where(defined, yy, 1.0)
    return torch.where(defined, xy / (xx.sqrt() * yy.sqrt()), torch.nan)


def ratio_of_totals(
    total: Total,
    share: Tensor,
    x_scale: Tensor,
    y_scale: Tensor,
    xy: Tensor,
    xx: Tensor,
    yy: Tensor,
    least_xx: Tensor | None = None,
    least_yy: Tensor | None = None,
) -> Tensor:
    """CKA from the HSIC of all ranks, averaged; nan where it is undefined. [...] fp32.

    Args:
        total: adds up the ranks' tensors.
        share: what turns this rank's sums into its HSIC.
        x_scale, y_scale: what the rows were divided by.
        xy, xx, yy: sums over the scaled rows.
        least_xx, least_yy: what is no more than this is rounding; None: 0.
    """
    zero = torch.zeros_like(xx)
    least_xx, least_yy = (zero if least is None else least for least in (least_xx, least_yy))
    x_unit, y_unit = x_scale.double().square(), y_scale.double().square()
    units = x_unit * y_unit, x_unit.square(), y_unit.square(), x_unit.square(), y_unit.square()
    sums = torch.stack([xy, xx, yy, least_xx, least_yy]).double() * torch.stack(units) * share
    xy, xx, yy, least_xx, least_yy = total(sums)
    return ratio(xy, xx, yy, (xx > least_xx) & (yy > least_yy)).float()


def matrix(hsic_NN: Tensor, defined_N: Tensor) -> Tensor:
    """CKA of all pairs from their HSIC: symmetric, 1 on the diagonal, nan where undefined."""
    hsic_NN = (hsic_NN + hsic_NN.T) / 2
    hsic_N = hsic_NN.diagonal()
    defined_NN = defined_N[:, None] & defined_N
    cka_NN = ratio(hsic_NN, hsic_N[:, None], hsic_N, defined_NN)
    same_NN = torch.eye(len(hsic_N), dtype=torch.bool, device=cka_NN.device)
    return torch.where(same_NN & defined_NN, 1.0, cka_NN)


def matrix_of_totals(
    total: Total,
    share_N: Tensor,
    scale_N: Tensor,
    hsic_NN: Tensor,
    least_N: Tensor | None = None,
) -> Tensor:
    """As `ratio_of_totals`, for all pairs: [N, N] fp32."""
    unit_N = scale_N.double().square()
    hsic_NN = hsic_NN.double() * unit_N[:, None] * unit_N * share_N
    least_N = torch.zeros_like(unit_N) if least_N is None else least_N * unit_N.square() * share_N
    totals_XN = total(torch.cat([hsic_NN, least_N[None]]))
    hsic_NN, least_N = totals_XN[:-1], totals_XN[-1]
    return matrix(hsic_NN, hsic_NN.diagonal() > least_N).float()


def biased_share(rows: Tensor) -> Tensor:
    """What a sum over a rank's rows is multiplied with to give its HSIC; 0: too few rows."""
    share = 1 / (rows.double() - 1).clamp(min=1).square()
    return torch.where(rows >= BIASED_ROWS, share, 0.0)


def debiased_share(rows: Tensor) -> Tensor:
    """As `biased_share`, for HSIC_1."""
    n = rows.clamp(min=DEBIASED_ROWS).double()
    return torch.where(rows >= DEBIASED_ROWS, 1 / (n * (n - 3)), 0.0)
