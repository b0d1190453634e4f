"""Pearson's correlation and ranks, with which monitor and report relate shared tokens to
similarity.

Undefined values (nan) are left out. Imports no torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Numbers = NDArray[np.floating[Any]]

FEWEST = 3  # points; a line through two always fits
CONSTANT = 1e-18  # variance, of values of variance 1, that is only rounding


def pearson(x: Numbers, y: Numbers) -> float:
    """Pearson's correlation of two vectors where both are defined.

    Returns:
        nan for fewer than 3 points or for constant values.
    """
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < FEWEST or np.ptp(x[known]) == 0 or np.ptp(y[known]) == 0:
        return float("nan")
    u, v = standardised(x[known]), standardised(y[known])
    return float(of_sums(np.array([len(u), u.sum(), v.sum(), u @ v, u @ u, v @ v])))


def of_sums(sums: Array) -> Array:
    """Pearson's correlation from n and the sums of x, y, xy, xx and yy, [6, ...].

    Args:
        sums: of standardised values, so that squares lose no digits.

    Returns:
        [...]; nan where x or y is constant.
    """
    n, x, y, xy, xx, yy = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = (xx - x * x / n) * (yy - y * y / n)
        found: Array = np.where(
            spread > CONSTANT * n * n, (xy - x * y / n) / np.sqrt(spread), np.nan
        )
    return found


def standardised(values: Numbers) -> Array:
    """Centred and scaled to variance 1, in fp64; constant values become 0."""
    values = values.astype(np.float64)
    spread = values.std()
    scaled: Array = (values - values.mean()) / (spread if spread > 0 else 1.0)
    return scaled


def ranks(values: Numbers) -> Array:
    """The rank of each value from 1; equal values share the mean of their ranks, nan stays nan."""
    found = np.full(len(values), np.nan)
    known = np.isfinite(values)
    _, group, counts = np.unique(values[known], return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    found[known] = (ends - (counts - 1) / 2)[group]
    return found
