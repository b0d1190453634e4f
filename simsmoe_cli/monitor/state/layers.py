"""What an event says of one layer: how its experts are loaded and how alike they are.

Shapes: N experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def number(value: Any) -> float:
    """A JSON number as a float; nan for null, anything else, and what a float cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else math.nan
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.nan
    return math.nan


def parse_layer(value: Any) -> LayerSimilarity | None:
    """A layer of a similarity event; None for what is none."""
    if not isinstance(value, dict) or (layer := index(value.get("layer"))) is None:
        return None
    cka = _matrix(value.get("cka"))
    if cka is None:
        return None
    shared = _matrix(value.get("shared"))
    if shared is None or shared.shape != cka.shape:
        shared = np.full_like(cka, np.nan)
    return LayerSimilarity(layer, number(value.get("mean")), cka, shared)


def index(value: Any) -> int | None:
    """A layer's or an expert's number; None for what is none."""
    whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 20
    return value if whole else None


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


def parse_router_layer(value: Any) -> RouterLayer | None:
    """A layer of a router event; None for what is none."""
    if not isinstance(value, dict) or (layer := index(value.get("layer"))) is None:
        return None
    load = value.get("load")
    load_N = np.array(
        [number(item) for item in load[:MAX_EXPERTS]] if isinstance(load, list) else [],
        dtype=np.float64,
    )
    dead = value.get("dead")
    ids = [index(item) for item in dead[:MAX_EXPERTS]] if isinstance(dead, list) else []
    return RouterLayer(
        layer=layer,
        load=_float32(load_N),
        load_cv=number(value.get("load_cv")),
        dead=tuple(sorted(i for i in ids if i is not None)),
        entropy_nats=number(value.get("entropy_nats")),
        entropy_of_mean_nats=number(value.get("entropy_of_mean_nats")),
    )
