"""Probes over training: the router's load and the similarity of experts, step by step.

There can be more probes than memory allows, so their frames are thinned evenly. Matrices stay in
the files of the run folder until someone looks at them; those of schema 1 are held.

Shapes: N experts.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from simsmoe_cli.files.untrusted import Unreadable
from simsmoe_cli.run import events, probes
from simsmoe_cli.run.events import Number, Router, Similarity
from simsmoe_cli.run.probes import Matrices, Matrix, most_similar_pairs

MAX_EXPERTS = 4096
CACHE_BYTES = 16 << 20


@dataclass(frozen=True)
class RouterLayer:
    """The load of the experts of one layer.

    Attributes:
        layer: its index among the layers with experts, from 0.
        load: [N], fraction of the routed slots.
        load_cv: standard deviation of the load over its mean.
        dead: experts with less than 1% of a fair share, as the last event that judged them says;
            None where none has.
        entropy_nats: of a token's routing probabilities, mean over tokens.
        entropy_of_mean_nats: of the mean routing probabilities.
        slots: routed slots of training batches by which the dead were judged; 0: by `load`.
        judged: whether this event judged them, not one before.
    """

    layer: int
    load: NDArray[np.float32]
    load_cv: float
    dead: tuple[int, ...] | None
    entropy_nats: float
    entropy_of_mean_nats: float
    slots: int = 0
    judged: bool = True


@dataclass(frozen=True)
class RouterFrame:
    """One router event: its layers, in their order."""

    step: int
    time: float
    layers: tuple[RouterLayer, ...]

    @classmethod
    def of(cls, event: Router, before: RouterFrame | None = None) -> RouterFrame:
        """The frame of an event.

        Args:
            before: the frame before, whose dead experts stay where this event does not judge them.
        """
        known = {layer.layer: layer for layer in before.layers} if before is not None else {}
        layers = {
            layer["layer"]: _router_layer(layer, known.get(layer["layer"]))
            for layer in event.get("layers", [])
        }
        ordered = tuple(layers[number] for number in sorted(layers))
        return cls(event["step"], defined(event.get("time")), ordered)

    @property
    def dead(self) -> int | None:
        """How many experts of all layers are dead; None where no layer was judged."""
        known = [len(layer.dead) for layer in self.layers if layer.dead is not None]
        return sum(known) if known else None

    @property
    def load_cv(self) -> float:
        """Mean over the layers where it is defined."""
        return mean_of([layer.load_cv for layer in self.layers])

    @property
    def nbytes(self) -> int:
        """Memory that its loads take."""
        return sum(layer.load.nbytes for layer in self.layers)


def _router_layer(layer: events.RouterLayer, before: RouterLayer | None) -> RouterLayer:
    found = layer.get("dead", [])
    judged = found is not None
    slots = sum(layer.get("slots", []))
    dead = tuple(sorted(found[:MAX_EXPERTS])) if found is not None else None
    if not judged and before is not None:
        dead, slots = before.dead, before.slots
    return RouterLayer(
        layer=layer["layer"],
        load=np.array(layer.get("load", [])[:MAX_EXPERTS], dtype=np.float32),
        load_cv=defined(layer.get("load_cv")),
        dead=dead,
        entropy_nats=defined(layer.get("entropy_nats")),
        entropy_of_mean_nats=defined(layer.get("entropy_of_mean_nats")),
        slots=slots,
        judged=judged,
    )


@dataclass(frozen=True)
class LayerSimilarity:
    """The similarity of the experts of one layer.

    Attributes:
        layer: its index among the layers with experts, from 0.
        mean: of the pairs; nan where undefined.
        cka: [N, N]; nan where undefined.
        shared: [N, N], fraction of tokens that both experts of a pair were given; nan where
            unknown.
        cka_shared: [N, N], on the tokens that both experts of a pair were given; nan where
            undefined; None where it was not measured.
    """

    layer: int
    mean: float
    cka: Matrix
    shared: Matrix
    cka_shared: Matrix | None = None

    @property
    def experts(self) -> int:
        return len(self.cka)

    @property
    def shared_mean(self) -> float:
        """The mean of the pairs that have a similarity on shared tokens; nan without any."""
        if self.cka_shared is None:
            return math.nan
        return mean_of(self.cka_shared[np.triu_indices(self.experts, 1)].tolist())


class ProbeFiles:
    """The matrices in a run folder, read when someone looks at them; a few of them are kept.

    Args:
        run: path of the run folder.
    """

    def __init__(self, run: Path):
        self.run = run
        self._kept: OrderedDict[str, Matrices] = OrderedDict()

    def read(self, name: str) -> Matrices:
        """Those of a file of `run.probes`; raises Unreadable."""
        found = self._kept.pop(name, None) or probes.read(self.run, name)
        self._kept[name] = found
        while len(self._kept) > 1 and self.kept_bytes > CACHE_BYTES:
            self._kept.popitem(last=False)
        return found

    @property
    def kept_bytes(self) -> int:
        """Memory of those that are kept."""
        return sum(matrices.nbytes for matrices in self._kept.values())


@dataclass(frozen=True)
class SimilarityFrame:
    """One similarity event.

    Attributes:
        step, time: of the event.
        measure: name of the similarity measure.
        tokens: tokens of the probe batch; 0 where unknown.
        fewest_shared: tokens that a pair must share for a similarity on them; 0 where unknown.
        means: mean similarity by layer, in the layers' order; nan where undefined.
        shared_means: the same on the tokens that both experts of a pair were given; no layer where
            it was not measured.
        highest: the most similar pair by layer, (i, j, value), where one is defined.
        matrices: name of their file, the matrices themselves, or None where there are none.
    """

    step: int
    time: float
    measure: str
    tokens: int
    means: dict[int, float]
    fewest_shared: int = 0
    shared_means: dict[int, float] = field(default_factory=dict)
    highest: dict[int, tuple[int, int, float]] = field(default_factory=dict)
    matrices: str | Matrices | None = None
    _files: ProbeFiles | None = None

    @classmethod
    def of(cls, event: Similarity, files: ProbeFiles) -> SimilarityFrame:
        """The frame of an event; its matrices are looked for in these files."""
        layers = sorted(event.get("layers", []), key=lambda layer: layer["layer"])
        highest = {}
        for layer in layers:
            pair, value = layer.get("pair", []), layer.get("highest")
            if len(pair) == 2 and value is not None:
                highest[layer["layer"]] = (pair[0], pair[1], value)
        held: Matrices | None = event.get("held")
        if held is not None:
            for number, cka_NN in zip(held.layers, held.cka_LNN, strict=True):
                if pairs := most_similar_pairs(cka_NN, 1):
                    highest[number] = pairs[0]
        return cls(
            step=event["step"],
            time=defined(event.get("time")),
            measure=event.get("measure", ""),
            tokens=event.get("tokens", 0),
            fewest_shared=event.get("fewest_shared", 0),
            means={layer["layer"]: defined(layer.get("mean")) for layer in layers},
            shared_means={
                layer["layer"]: defined(layer["shared_mean"])
                for layer in layers
                if "shared_mean" in layer
            },
            highest=highest,
            matrices=held or event.get("matrices"),
            _files=files,
        )

    @property
    def mean(self) -> float:
        """Over the layers where it is defined."""
        return mean_of(list(self.means.values()))

    def layer(self, number: int) -> LayerSimilarity | None:
        """A layer's matrices, read from the file if need be (a few ms); None where there are none,
        see `without_matrices`."""
        try:
            found = self._read()
        except Unreadable:
            return None
        if found is None or number not in found.layers:
            return None
        at = found.layers.index(number)
        mean = self.means.get(number, math.nan)
        on_shared = found.cka_shared_LNN
        return LayerSimilarity(
            number,
            mean,
            found.cka_LNN[at],
            found.shared_LNN[at],
            None if on_shared is None else on_shared[at],
        )

    def without_matrices(self) -> str:
        """Why there are no matrices, in words; empty where there are."""
        try:
            return "" if self._read() is not None else "the event names no matrices"
        except Unreadable as error:
            return f"{self.matrices} {error}"

    def _read(self) -> Matrices | None:
        if isinstance(self.matrices, str):
            assert self._files is not None
            return self._files.read(self.matrices)
        return self.matrices

    @property
    def nbytes(self) -> int:
        """Memory that its matrices take."""
        return self.matrices.nbytes if isinstance(self.matrices, Matrices) else 0


def defined(value: Number) -> float:
    """A number of an event; nan for None."""
    return math.nan if value is None else value


def mean_of(values: list[float]) -> float:
    """Mean of the finite ones; nan where there are none."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


class Frame(Protocol):
    """The type of the items of `Frames`."""

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
