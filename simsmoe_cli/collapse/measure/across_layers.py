"""What a report says over all layers: shared tokens against similarity, depth, the nearest pair.

The paper's Figures 4a, 4b and 5, from what `measure.py` found in each layer.

Shapes: T rows, D model width, N experts.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from simsmoe_cli.collapse.findings import (
    Difference,
    Estimate,
    LayerFindings,
    Matrix,
    Number,
    Overall,
)
from simsmoe_cli.collapse.measure.correlation import Array, correlate, pearson, rank
from simsmoe_cli.collapse.sources.base import Source

SHOWN_ROWS, SHOWN_FEATURES = 48, 64  # of the difference of two experts
NODES = (
    "experts of each layer resampled, {resamples} times; null: relabelled as often, 2.5 % to 97.5 %"
)


def overall(layers: list[LayerFindings], resamples: int, level: float, seed: int) -> Overall:
    """Shared tokens against similarity (Fig. 4a), similarity by depth (Fig. 4b)."""
    matrices = [(array(layer.shared), array(layer.cka)) for layer in layers]
    correlations = []
    for ranks in (False, True):
        generator = np.random.default_rng([seed, int(ranks)])
        found = correlate(matrices, ranks, resamples, level, generator)
        correlations.append(
            Estimate(
                value=defined(found.value),
                low=defined(found.low),
                high=defined(found.high),
                n=found.n,
                of="pairs",
                null_mean=defined(found.null[0]),
                null_low=defined(found.null[1]),
                null_high=defined(found.null[2]),
                method=NODES.format(resamples=resamples),
            )
        )
    means = [
        (layer.layer, layer.cka_mean.value) for layer in layers if layer.cka_mean.value is not None
    ]
    shared = [
        value
        for layer in layers
        for i, j in layer.pairs()
        if layer.cka_shared and (value := layer.cka_shared[i][j]) is not None
    ]
    return Overall(
        cka_mean=sum(value for _, value in means) / len(means) if means else None,
        cka_shared=Estimate(
            value=sum(shared) / len(shared) if shared else None, n=len(shared), of="pairs"
        ),
        pearson=correlations[0],
        spearman=correlations[1],
        depth=_depth(means, resamples, seed),
    )


def _depth(means: list[tuple[int, float]], resamples: int, seed: int) -> Estimate:
    """Rank correlation of a layer's place and its mean similarity."""
    place = rank(np.array([layer for layer, _ in means], dtype=float))
    alike = rank(np.array([value for _, value in means], dtype=float))
    generator = np.random.default_rng([seed, 2])
    null = np.array([pearson(place, generator.permutation(alike)) for _ in range(resamples)])
    low, high = np.quantile(null, [0.025, 0.975])
    return Estimate(
        value=defined(pearson(place, alike)),
        n=len(means),
        of="layers",
        null_mean=defined(null.mean()),
        null_low=defined(low),
        null_high=defined(high),
        method=f"null: layers in another order, {resamples} times, 2.5 % to 97.5 %; too few for "
        "an interval",
    )


def most_alike(layer: LayerFindings) -> tuple[int, int, float] | None:
    """The live pair with the largest debiased CKA, or any defined pair if none is live."""
    found = [(i, j, value) for i, j in layer.pairs() if (value := layer.cka[i][j]) is not None]
    live = [pair for pair in found if not {pair[0], pair[1]} & set(layer.dead or ())]
    return max(live or found, key=lambda pair: pair[2], default=None)


def difference_of(
    layer: LayerFindings, pair: tuple[int, int, float], outputs_NTD: Tensor
) -> Difference:
    """How far apart the two outputs of a pair are, token by token (Fig. 5); without labels."""
    i, j, cka = pair
    first_TD, second_TD = outputs_NTD[i].double(), outputs_NTD[j].double()
    size = ((first_TD.square() + second_TD.square()).mean() / 2).sqrt()
    apart_TD = ((first_TD - second_TD) / size).square().cpu()
    rows = spread(len(apart_TD), SHOWN_ROWS).tolist()
    width = apart_TD.shape[1]
    ends = np.linspace(0, width, min(SHOWN_FEATURES, width) + 1).round().astype(int).tolist()
    features = list(itertools.pairwise(ends))
    return Difference(
        layer=layer.layer,
        experts=(i, j),
        cka=cka,
        rows=rows,
        labels=[],
        features=features,
        values=[
            [apart_TD[row, start:end].mean().sqrt().item() for start, end in features]
            for row in rows
        ],
        mean=apart_TD.mean().sqrt().item(),
    )


def with_labels(difference: Difference | None, source: Source, ids: list[int]) -> Difference | None:
    """A difference with its tokens as text; `ids` are those of all measured rows."""
    if difference is None:
        return None
    labels = source.text_of([ids[row] for row in difference.rows])
    return difference.model_copy(update={"labels": labels})


def spread(rows: int, wanted: int) -> Tensor:
    """Numbers of at most so many rows, evenly spread."""
    return torch.linspace(0, rows - 1, min(rows, wanted)).round().long()


def defined(value: float | None) -> Number:
    """A plain float; None for what is undefined."""
    return float(value) if value is not None and math.isfinite(value) else None


def matrix(values_NN: Tensor) -> Matrix:
    return [[defined(value) for value in row] for row in values_NN.double().tolist()]


def array(matrix: Matrix) -> Array:
    return np.array([[np.nan if value is None else value for value in row] for row in matrix])
