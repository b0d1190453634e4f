"""Pearson and Spearman over pairs of experts, with interval and null.

Two pairs with an expert in common are not independent, so experts are resampled and relabelled,
not pairs (Snijders and Borgatti 1999 for the interval, Mantel 1967 for the null). Imports no torch.

Shapes: N experts, S resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simsmoe_cli.collapse.findings import Estimate, Matrix, defined
from simsmoe_cli.collapse.subject import Number
from simsmoe_cli.run.correlation import Array, of_sums, ranks, standardised

NODES = (
    "experts of each layer resampled, {resamples} times; null: relabelled as often, 2.5 % to 97.5 %"
)


def correlate(
    layers: Sequence[tuple[Array, Array]],
    by_rank: bool,
    resamples: int,
    level: float,
    generator: np.random.Generator,
) -> Estimate:
    """Correlation over all defined pairs of all layers.

    Args:
        layers: two symmetric [N, N] matrices each; pairs that are nan in either are left out.
        by_rank: Spearman (ranks over all layers at once) instead of Pearson.
        resamples: of the experts within each layer, and relabellings of them.
        level: of the interval.
        generator: for both.

    Returns:
        the coefficient with its percentile interval; its null is that of relabelled experts.
    """
    both = [(np.array(x, dtype=float), np.array(y, dtype=float)) for x, y in layers]
    pairs = [np.triu(np.isfinite(x) & np.isfinite(y), 1) for x, y in both]
    count = int(sum(mask.sum() for mask in pairs))
    method = NODES.format(resamples=resamples)
    if count < 3:
        return Estimate(value=None, n=count, of="pairs", method=method)
    for side in (0, 1):
        values = np.concatenate(
            [layer[side][mask] for layer, mask in zip(both, pairs, strict=True)]
        )
        values = standardised(ranks(values) if by_rank else values)
        start = 0
        for layer, mask in zip(both, pairs, strict=True):
            layer[side][...] = 0
            layer[side][mask] = values[start : start + mask.sum()]
            layer[side][...] += layer[side].T
            start += int(mask.sum())
    drawn, relabelled = np.zeros((6, resamples)), np.zeros((6, resamples))
    plain = np.zeros((6, 1))
    for (x, y), mask in zip(both, pairs, strict=True):
        experts, known = len(x), (mask | mask.T).astype(float)
        plain += _sums(x, y, known, np.ones((1, experts)))
        weight = generator.multinomial(experts, np.full(experts, 1 / experts), resamples)
        drawn += _sums(x, y, known, weight.astype(float))
        for s in range(resamples):
            order = generator.permutation(experts)
            moved = np.ix_(order, order)
            relabelled[:, s : s + 1] += _sums(
                x, y[moved], known * known[moved], np.ones((1, experts))
            )
    low, high = _quantiles(of_sums(drawn), [(1 - level) / 2, (1 + level) / 2])
    null = of_sums(relabelled)
    null_low, null_high = _quantiles(null, [0.025, 0.975])
    return Estimate(
        value=defined(of_sums(plain)[0]),
        low=low,
        high=high,
        n=count,
        of="pairs",
        null_mean=defined(null.mean()),
        null_low=null_low,
        null_high=null_high,
        method=method,
    )


def _sums(x: Array, y: Array, defined: Array, weight_SN: Array) -> Array:
    """Weighted n, sums and sums of products over pairs, [6, S]; pair ij weighs w_i w_j."""
    matrices = (defined, x, y, x * y, x * x, y * y)
    return np.stack(
        [((weight_SN @ (defined * matrix)) * weight_SN).sum(1) / 2 for matrix in matrices]
    )


def _quantiles(values: Array, tails: Sequence[float]) -> tuple[Number, Number]:
    """Two quantiles; None if a value is undefined."""
    low, high = np.quantile(values, tails)
    return defined(low), defined(high)


def nan_array(matrix: Matrix) -> Array:
    """A matrix of findings with nan where it is undefined."""
    return np.array(
        [[np.nan if value is None else value for value in row] for row in matrix], dtype=np.float64
    )
