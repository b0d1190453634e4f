"""Numbers over all layers: shared tokens against similarity, and similarity by depth.

The paper's Figures 4a and 4b, from the findings of each layer.
"""

from __future__ import annotations

import numpy as np

from simsmoe_cli.collapse.findings import Estimate, LayerFindings, Overall, defined, mean_of
from simsmoe_cli.collapse.measure.correlation import correlate, nan_array
from simsmoe_cli.run.correlation import pearson, ranks


def overall(layers: list[LayerFindings], resamples: int, level: float, seed: int) -> Overall:
    """Shared tokens against similarity (Fig. 4a), similarity by depth (Fig. 4b)."""
    matrices = [(nan_array(layer.shared), nan_array(layer.cka)) for layer in layers]
    linear, ranked = (
        correlate(matrices, by_rank, resamples, level, np.random.default_rng([seed, int(by_rank)]))
        for by_rank in (False, True)
    )
    shared = [
        value
        for layer in layers
        for i, j in layer.pairs()
        if layer.cka_shared and (value := layer.cka_shared[i][j]) is not None
    ]
    return Overall(
        cka_mean=mean_of([layer.cka_mean.value for layer in layers]),
        cka_shared=Estimate(value=mean_of(shared), n=len(shared), of="pairs"),
        pearson=linear,
        spearman=ranked,
        depth=_depth(layers, resamples, seed),
    )


def _depth(layers: list[LayerFindings], resamples: int, seed: int) -> Estimate:
    """Rank correlation of a layer's index and its mean similarity."""
    known = [layer for layer in layers if layer.cka_mean.value is not None]
    depth = ranks(np.array([layer.layer for layer in known], dtype=float))
    similarity = ranks(np.array([layer.cka_mean.value for layer in known], dtype=float))
    generator = np.random.default_rng([seed, 2])
    null = np.array([pearson(depth, generator.permutation(similarity)) for _ in range(resamples)])
    low, high = np.quantile(null, [0.025, 0.975])
    return Estimate(
        value=defined(pearson(depth, similarity)),
        n=len(known),
        of="layers",
        null_mean=defined(null.mean()),
        null_low=defined(low),
        null_high=defined(high),
        method=f"null: layers in another order, {resamples} times, 2.5 % to 97.5 %; too few for "
        "an interval",
    )
