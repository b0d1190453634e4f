"""The numbers of an attached layer since the last log, on the host.

Shapes: N experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from simsmoe_cli.any_moe.hooks import AttachedLayer, Probe
from simsmoe_cli.run.dead_experts import dead_experts
from simsmoe_cli.run.events import RouterLayer


@dataclass(frozen=True)
class LayerNumbers:
    """One layer since the last log.

    Attributes:
        layer: its index among the layers with experts, from 0.
        load: fraction of the routed slots that each expert got, [N]; empty where nothing was
            routed.
        slots: tokens that each expert got since dead experts were last judged, [N].
        dead: the experts that are dead by these; None: they are too few to judge.
        tokens: that reached it, padding left out.
        entropy_nats: of a token's routing distribution, mean over tokens; None: not known.
        pairs_due: pairs that were compared.
        similarity: summed over them.
        probe: of the last probe, if there was one.
    """

    layer: int
    load: Sequence[float]
    slots: Sequence[int]
    dead: list[int] | None
    tokens: float
    entropy_nats: float | None
    pairs_due: float
    similarity: float
    probe: Probe | None

    @classmethod
    def of(cls, index: int, attached: AttachedLayer, probe: Probe | None) -> LayerNumbers:
        """Read a layer's window; the host waits on the device here."""
        slots = attached.slots_N.tolist()
        values = torch.stack(list(attached.window.values())).tolist() if attached.window else []
        sums = dict(zip(attached.window, values, strict=True))
        total = sum(slots)
        gathered = [before + int(now) for before, now in zip(attached.unjudged, slots, strict=True)]
        dead = dead_experts(gathered)
        tokens = sums.get("tokens", 0.0)
        entropy = sums["entropy"] / tokens if "entropy" in sums and tokens else None
        return cls(
            index,
            [count / total for count in slots] if total else [],
            gathered,
            dead,
            tokens,
            entropy,
            sums.get("pairs_due", 0.0),
            sums.get("similarity", 0.0),
            probe,
        )

    @property
    def unjudged(self) -> list[int]:
        """The slots that dead experts have not been judged by."""
        return list(self.slots) if self.dead is None else [0] * len(self.slots)

    def event(self) -> RouterLayer:
        """The layer's part of a router event."""
        mean = 1 / max(1, len(self.load))
        deviation = math.sqrt(sum((load - mean) ** 2 for load in self.load) * mean)
        return {
            "layer": self.layer,
            "load": list(self.load),
            "load_cv": deviation / mean,
            "slots": list(self.slots),
            "dead": self.dead,
            "entropy_nats": self.entropy_nats,
        }

    def metrics(self) -> dict[str, float]:
        """Numbers for a logger; at most five."""
        found: dict[str, float] = {}
        if self.load:
            found["load_max"] = max(self.load) * len(self.load)
        if self.dead is not None:
            found["dead"] = len(self.dead)
        if self.entropy_nats is not None:
            found["entropy"] = self.entropy_nats
        if self.probe is not None:
            number = len(self.probe.cka_NN)
            pairs = self.probe.cka_NN[tuple(torch.triu_indices(number, number, 1))]
            pairs = pairs[~pairs.isnan()]
            if len(pairs):
                found["cka_mean"], found["cka_max"] = pairs.mean().item(), pairs.max().item()
        return found


def metrics_of(layers: Sequence[LayerNumbers]) -> dict[str, float]:
    """Numbers of a whole model for a logger; see `Handle.metrics`."""
    each = {f"layer_{numbers.layer}": numbers.metrics() for numbers in layers}
    found = {f"{layer}/{name}": value for layer, own in each.items() for name, value in own.items()}
    joined: dict[str, Callable[[Sequence[float]], float]]
    joined = {"dead": sum, "cka_mean": _mean, "cka_max": max}
    for name, join in joined.items():
        values = [own[name] for own in each.values() if name in own]
        if values:
            found[name] = join(values)
    if pairs := sum(numbers.pairs_due for numbers in layers):
        found["similarity"] = sum(numbers.similarity for numbers in layers) / pairs
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
