"""Probes over training: the router's load and the experts' pairwise similarity, step by step.

A similarity event of 30 layers with 64 experts is 4 MB of text. The tail therefore leaves such a
line where it lies and hands on a `StoredLayers`: where each layer stands in the file and its mean
similarity, found without parsing the line. A layer's matrices are read when someone looks at it.

Shapes: N experts.
"""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from simsmoe_cli.rundir import Event

Matrix = NDArray[np.float32]
CACHE_BYTES = 16 << 20
MAX_EXPERTS = 4096
MARK = 256  # bytes of a line in which its kind is looked for


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


@dataclass(frozen=True)
class LayerSimilarity:
    """How alike the experts of one layer are.

    Attributes:
        layer: its number, from 0, counting layers with experts.
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
        layer: its number, from 0, counting layers with experts.
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
class StoredLayers:
    """The layers of a similarity event that were left in the file.

    Attributes:
        path: the file.
        spans: of each layer's number, where its JSON object begins in the file, and how many bytes
            from there hold it.
        means: mean similarity by layer; nan where undefined.
    """

    path: Path
    spans: dict[int, tuple[int, int]]
    means: dict[int, float]

    def read(self, layer: int) -> LayerSimilarity | None:
        """The layer; None where the file no longer holds it."""
        begin, length = self.spans[layer]
        try:
            with open(self.path, "rb") as file:
                file.seek(begin)
                text = file.read(length).decode()
            value, _ = json.JSONDecoder().raw_decode(text)
        except (OSError, ValueError, RecursionError):
            return None
        found = parse_layer(value)
        return found if found is not None and found.layer == layer else None


class LayerCache:
    """Layers read from files, the least recently used forgotten first."""

    def __init__(self, limit_bytes: int = CACHE_BYTES):
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._kept: OrderedDict[tuple[int, int], LayerSimilarity] = OrderedDict()

    def get(self, stored: StoredLayers, layer: int) -> LayerSimilarity | None:
        """The layer, read unless it is kept."""
        key = stored.spans[layer]
        found = self._kept.pop(key, None)
        if found is None:
            found = stored.read(layer)
            if found is None:
                return None
            self.bytes += found.cka.nbytes + found.shared.nbytes
        self._kept[key] = found
        while self.bytes > self.limit_bytes and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self.bytes -= old.cka.nbytes + old.shared.nbytes
        return found

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0


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


def stored_event(path: Path, begin: int, line: bytes) -> Event | None:
    """A similarity event whose layers stay in the file; None for any line that does not look like
    one as `rundir.EventLog` writes it, which must then be parsed.

    Args:
        path: the file.
        begin: where in it the line begins.
        line: without its line end.
    """
    at = line.find(b'"layers":[')
    if b'"similarity"' not in line[:MARK] or at < 0 or not line.endswith(b"]}"):
        return None
    try:
        event = from_json(line[:at] + b'"layers":[]}')
    except ValueError:
        return None
    if event.get("kind") != "similarity" or not {"schema", "step", "time"} <= event.keys():
        return None
    layers, means = _found(line, b'{"layer":'), _found(line, b'"mean":')
    ends = [*layers[1:], len(line)]
    if len(layers) != len(means) or not all(
        layer < mean < end for layer, mean, end in zip(layers, means, ends, strict=True)
    ):
        return None
    try:
        numbers = [_value_at(line, layer + len(b'{"layer":')) for layer in layers]
        values = [_value_at(line, mean + len(b'"mean":')) for mean in means]
    except ValueError:
        return None
    known = [index for value in numbers if (index := _index(value)) is not None]
    if len(set(known)) != len(layers):
        return None
    spans = {
        index: (begin + layer, end - layer)
        for index, layer, end in zip(known, layers, ends, strict=True)
    }
    stored = StoredLayers(path, spans, dict(zip(known, map(number, values), strict=True)))
    return {**event, "layers": stored}


def _found(line: bytes, key: bytes) -> list[int]:
    """Where the key stands."""
    places = []
    at = line.find(key)
    while at >= 0:
        places.append(at)
        at = line.find(key, at + len(key))
    return places


def _value_at(line: bytes, begin: int) -> Any:
    """The number or null that begins there."""
    return from_json(re.split(rb"[,}\]]", line[begin : begin + 64], maxsplit=1)[0])


def similarity_frame(event: dict[str, Any], cache: LayerCache) -> SimilarityFrame:
    """The frame of a similarity event whose step and time are numbers; layers that are none are
    left out."""
    stored = event.get("layers")
    held: dict[int, LayerSimilarity] = {}
    if isinstance(stored, StoredLayers):
        means = stored.means
    else:
        found = [parse_layer(value) for value in stored] if isinstance(stored, list) else []
        held = {layer.layer: layer for layer in found if layer is not None}
        means = {layer.layer: layer.mean for layer in held.values()}
        stored = None
    measure = event.get("measure")
    tokens = number(event.get("tokens"))
    return SimilarityFrame(
        step=int(event["step"]),
        time=number(event.get("time")),
        measure=measure if isinstance(measure, str) else "",
        tokens=int(tokens) if math.isfinite(tokens) else 0,
        means={layer: means[layer] for layer in sorted(means)},
        _held=held,
        _stored=stored,
        _cache=cache,
    )


def router_frame(event: dict[str, Any]) -> RouterFrame:
    """The frame of a router event whose step is a number; layers that are none are left out."""
    values = event.get("layers")
    found = [_router_layer(value) for value in values] if isinstance(values, list) else []
    layers = {layer.layer: layer for layer in found if layer is not None}
    return RouterFrame(
        int(event["step"]), number(event.get("time")), tuple(layers[key] for key in sorted(layers))
    )


def _router_layer(value: Any) -> RouterLayer | None:
    if not isinstance(value, dict) or (layer := _index(value.get("layer"))) is None:
        return None
    load = value.get("load")
    load_N = np.array(
        [number(item) for item in load[:MAX_EXPERTS]] if isinstance(load, list) else [],
        dtype=np.float64,
    )
    dead = value.get("dead")
    ids = [_index(item) for item in dead[:MAX_EXPERTS]] if isinstance(dead, list) else []
    return RouterLayer(
        layer=layer,
        load=_float32(load_N),
        load_cv=number(value.get("load_cv")),
        dead=tuple(index for index in ids if index is not None),
        entropy_nats=number(value.get("entropy_nats")),
        entropy_of_mean_nats=number(value.get("entropy_of_mean_nats")),
    )


def parse_layer(value: Any) -> LayerSimilarity | None:
    """A layer of a similarity event; None for what is none."""
    if not isinstance(value, dict) or (layer := _index(value.get("layer"))) is None:
        return None
    cka = _matrix(value.get("cka"))
    if cka is None:
        return None
    shared = _matrix(value.get("shared"))
    if shared is None or shared.shape != cka.shape:
        shared = np.full_like(cka, np.nan)
    return LayerSimilarity(layer, number(value.get("mean")), cka, shared)


def _index(value: Any) -> int | None:
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
