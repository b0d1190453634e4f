"""Probes over training: the router's load and the experts' pairwise similarity, step by step.

Matrices of long similarity events stay in the file and are read when someone looks at them
(stored.py); there can be more frames than memory allows, so they are thinned evenly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from simsmoe_cli.monitor.state.layers import (
    LayerSimilarity,
    Matrix,
    RouterLayer,
    defined,
    parse_layer,
    parse_router_layer,
)
from simsmoe_cli.monitor.state.stored import LayerCache, StoredLayers
from simsmoe_cli.run.events import Router, Similarity

__all__ = [
    "Frames",
    "LayerSimilarity",
    "Matrix",
    "RouterFrame",
    "RouterLayer",
    "SimilarityFrame",
    "router_frame",
    "similarity_frame",
]


@dataclass(frozen=True)
class RouterFrame:
    """One router event: its layers, in their order."""

    step: int
    time: float
    layers: tuple[RouterLayer, ...]

    @property
    def nbytes(self) -> int:
        """Memory its loads take."""
        return sum(layer.load.nbytes for layer in self.layers)


@dataclass(frozen=True)
class SimilarityFrame:
    """One similarity event.

    Attributes:
        step, time: of the event.
        measure: name of the similarity measure.
        tokens: tokens of the probe batch; 0 where unknown.
        means: mean similarity by layer, in the layers' order; nan where undefined.
    """

    step: int
    time: float
    measure: str
    tokens: int
    means: dict[int, float]
    _held: dict[int, LayerSimilarity] = field(repr=False)
    _stored: StoredLayers | None = field(repr=False, default=None)
    _cache: LayerCache = field(repr=False, default_factory=LayerCache)

    @property
    def mean(self) -> float:
        """Over the layers where it is defined."""
        defined = [value for value in self.means.values() if math.isfinite(value)]
        return sum(defined) / len(defined) if defined else math.nan

    def layer(self, number: int) -> LayerSimilarity | None:
        """A layer's matrices, read from the file if need be (a few ms); None where there are none
        or the file no longer holds them."""
        if number in self._held:
            return self._held[number]
        if self._stored is not None and number in self._stored.spans:
            return self._cache.get(self._stored, number)
        return None

    @property
    def nbytes(self) -> int:
        """Memory its matrices take."""
        return sum(layer.cka.nbytes + layer.shared.nbytes for layer in self._held.values())


class Frame(Protocol):
    """What `Frames` holds."""

    @property
    def step(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


F = TypeVar("F", bound=Frame)


class Frames(Generic[F]):
    """Frames over training, evenly thinned to what memory allows; first and last always stay.

    Args:
        limit: frames kept at most; at least 2.
        limit_bytes: memory of the matrices they hold, as far as two frames fit.
    """

    def __init__(self, limit: int = 512, limit_bytes: int = 64 << 20):
        self.limit = limit
        self.limit_bytes = limit_bytes
        self._stride = 1
        self._seen = self._bytes = 0
        self._kept: list[tuple[int, F]] = []

    def append(self, frame: F) -> None:
        """Add the newest frame."""
        if self._kept and self._kept[-1][0] % self._stride:
            self._bytes -= self._kept.pop()[1].nbytes
        self._kept.append((self._seen, frame))
        self._bytes += frame.nbytes
        self._seen += 1
        while len(self._kept) > 2 and (
            len(self._kept) > self.limit or self._bytes > self.limit_bytes
        ):
            self._stride *= 2
            self._kept = [
                (index, frame)
                for index, frame in self._kept
                if index % self._stride == 0 or index == self._seen - 1
            ]
            self._bytes = sum(frame.nbytes for _, frame in self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> F:
        return self._kept[index][1]

    def __iter__(self) -> Iterator[F]:
        return (frame for _, frame in self._kept)

    def at(self, step: float) -> int:
        """Index of the last frame not after `step`; 0 where all are. There must be one."""
        return max(0, sum(frame.step <= step for frame in self) - 1)

    def clear(self) -> None:
        """Forget all frames."""
        self._kept.clear()
        self._stride, self._seen, self._bytes = 1, 0, 0


def similarity_frame(event: Similarity, cache: LayerCache) -> SimilarityFrame:
    """The frame of a similarity event; layers that are none are left out."""
    stored: Any = event.get("layers")
    held: dict[int, LayerSimilarity] = {}
    if isinstance(stored, StoredLayers):
        means = stored.means
    else:
        found = [parse_layer(value) for value in stored] if isinstance(stored, list) else []
        held = {layer.layer: layer for layer in found if layer is not None}
        means = {layer.layer: layer.mean for layer in held.values()}
        stored = None
    return SimilarityFrame(
        step=event["step"],
        time=defined(event.get("time")),
        measure=event.get("measure", ""),
        tokens=event.get("tokens", 0),
        means={layer: means[layer] for layer in sorted(means)},
        _held=held,
        _stored=stored,
        _cache=cache,
    )


def router_frame(event: Router) -> RouterFrame:
    """The frame of a router event."""
    layers = {layer["layer"]: parse_router_layer(layer) for layer in event.get("layers", [])}
    return RouterFrame(
        event["step"], defined(event.get("time")), tuple(layers[key] for key in sorted(layers))
    )
