"""What an event says of one layer: how its experts are loaded and how alike they are.

Shapes: N experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsmoe_cli.run import events

Matrix = NDArray[np.float32]
MAX_EXPERTS = 4096


@dataclass(frozen=True)
class LayerSimilarity:
    """How alike the experts of one layer are.

    Attributes:
        layer: its place among the layers with experts, from 0.
        mean: of the pairs; nan where undefined.
        cka: [N, N]; nan where undefined.
        shared: [N, N], fraction of tokens both experts of a pair were given; nan where unknown.
    """

    layer: int
    mean: float
    cka: Matrix
    shared: Matrix

    @property
    def experts(self) -> int:
        return len(self.cka)


@dataclass(frozen=True)
class RouterLayer:
    """How the router of one layer loads its experts.

    Attributes:
        layer: its place among the layers with experts, from 0.
        load: [N], fraction of the routed slots.
        load_cv: standard deviation of the load over its mean.
        dead: experts with less than 1% of a fair share.
        entropy_nats: of a token's routing probabilities, mean over tokens.
        entropy_of_mean_nats: of the mean routing probabilities.
    """

    layer: int
    load: NDArray[np.float32]
    load_cv: float
    dead: tuple[int, ...]
    entropy_nats: float
    entropy_of_mean_nats: float


def most_alike(layer: LayerSimilarity, count: int) -> list[tuple[int, int, float]]:
    """The pairs with the highest similarity, (i, j, value) with i < j, highest first."""
    first, second = np.triu_indices(layer.experts, 1)
    values = layer.cka[first, second]
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")[:count]
    return [
        (int(first[i]), int(second[i]), float(values[i])) for i in order if np.isfinite(values[i])
    ]


def defined(value: float | None) -> float:
    """A number of an event; nan for None."""
    return math.nan if value is None else value


def parse_layer(layer: events.SimilarityLayer) -> LayerSimilarity | None:
    """A layer of a similarity event; None for what is none."""
    cka = _matrix(layer.get("cka"))
    if cka is None:
        return None
    shared = _matrix(layer.get("shared"))
    if shared is None or shared.shape != cka.shape:
        shared = np.full_like(cka, np.nan)
    return LayerSimilarity(layer["layer"], defined(layer.get("mean")), cka, shared)


def _matrix(value: Any) -> Matrix | None:
    """A square matrix of numbers and nulls; None for what is none."""
    if not isinstance(value, list) or not 0 < len(value) <= MAX_EXPERTS:
        return None
    if not all(isinstance(row, list) and len(row) == len(value) for row in value):
        return None
    try:
        return _float32(np.array(value, dtype=np.float64))
    except (ValueError, TypeError, OverflowError):
        return None


def _float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """As float32, nan where it is not finite."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    single[~np.isfinite(single)] = np.nan
    return single


def parse_router_layer(layer: events.RouterLayer) -> RouterLayer:
    """A layer of a router event."""
    load_N = np.array(layer.get("load", [])[:MAX_EXPERTS], dtype=np.float64)
    return RouterLayer(
        layer=layer["layer"],
        load=_float32(load_N),
        load_cv=defined(layer.get("load_cv")),
        dead=tuple(sorted(layer.get("dead", [])[:MAX_EXPERTS])),
        entropy_nats=defined(layer.get("entropy_nats")),
        entropy_of_mean_nats=defined(layer.get("entropy_of_mean_nats")),
    )
