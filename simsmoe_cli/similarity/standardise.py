"""The first step of all measures: mask, centre and normalise the rows of an expert.

Every function takes x [..., n, d] and mask [..., n] (rows to count) and works in fp32. Rows outside
the mask, and all rows of an expert that is *undefined* (it gives the same output for all of them,
or one that is not finite), come back as zeros and get a gradient of exactly 0.

Shapes: n rows, d features.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Outputs smaller than this count as zero: gradients grow as 1/scale and must stay finite.
SMALLEST = 1e-12
# Deviation from the mean, relative to the largest entry, that fp32 rounding can cause.
ROUNDING = 1e-6


def whole_mask(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mask; without one, a mask of all rows."""
    return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device) if mask is None else mask


def row_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values [..., n] inside the mask, [...]; 0 where the mask is empty."""
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def standardise(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows centred and divided by their root mean square norm, as a constant to the gradient.

    Returns:
        rows [..., n, d]; the norm they were divided by [...], detached; whether they vary [...]
        bool.
    """
    inside = mask[..., None]
    x = torch.where(inside, x.float(), 0.0)
    peak = x.detach().abs().amax((-2, -1), keepdim=True)
    usable = (peak > SMALLEST) & (peak < torch.inf)
    peak = torch.where(usable, peak, 1.0)
    x = torch.where(usable, x, 0.0) / peak
    rows = mask.sum(-1).clamp(min=1)[..., None, None]
    x = torch.where(inside, x - x.sum(-2, keepdim=True) / rows, 0.0)
    norm = (x.detach().square().sum((-2, -1), keepdim=True) / rows).sqrt()
    varies = usable & (norm > ROUNDING * x.shape[-1] ** 0.5)
    norm = torch.where(varies, norm, 1.0)
    x = torch.where(varies, x, 0.0) / norm
    return x, (peak * norm)[..., 0, 0], varies[..., 0, 0]


def raw_rows(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as they are, and whether they vary [...] bool."""
    varies = standardise(x.detach(), mask)[2]
    return torch.where(mask[..., None] & varies[..., None, None], x.float(), 0.0), varies


def unit_rows(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows divided by their norms (zero rows stay zero), and whether they vary [...] bool."""
    x, varies = raw_rows(x, mask)
    peak = x.detach().abs().amax(-1, keepdim=True)
    there = peak > SMALLEST
    x = torch.where(there, x, 0.0) / torch.where(there, peak, 1.0)
    norm = torch.where(there, x.square().sum(-1, keepdim=True), 1.0).sqrt()
    return x / norm, varies


def standard_columns(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of mean 0 and variance 1 (constant ones are 0), and whether any varies [...] bool."""
    x, varies = raw_rows(x, mask)
    peak = x.detach().abs().amax(-2, keepdim=True)
    x = x / torch.where(peak > SMALLEST, peak, 1.0)
    rows = mask.sum(-1).clamp(min=1)[..., None, None]
    x = torch.where(mask[..., None], x - x.sum(-2, keepdim=True) / rows, 0.0)
    variance = x.square().sum(-2, keepdim=True) / rows
    there = (peak > SMALLEST) & (variance.detach() > ROUNDING**2)
    x = torch.where(there, x, 0.0) / torch.where(there, variance, 1.0).sqrt()
    return x, varies & there.any(-1)[..., 0]
