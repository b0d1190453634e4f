"""Alerts: each is reported once when it begins and once when it is over.

A value counts as recovered only when it is 5% below its threshold. Otherwise a value that stays
close to the threshold would cause an alert at every probe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Literal

from simsmoe_cli.monitor.state.probes import RouterFrame, SimilarityFrame

AlertKind = Literal["dead", "load_cv", "cka", "non_finite", "silent"]

RECOVERED_BELOW = 0.05  # of the threshold


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of the alerts.

    Attributes:
        load_cv_above: of a layer's load: standard deviation over mean.
        cka_above: of a layer's mean pairwise similarity.
        silent_after_s: seconds without an event after which a run counts as silent; None: computed
            from its own pace, see `patience_s`.
    """

    load_cv_above: float = 1.0
    cka_above: float = 0.8
    silent_after_s: float | None = None


@dataclass(frozen=True)
class Alert:
    """One alert, or its end.

    Attributes:
        kind: the quantity that crossed its threshold.
        step, time: of the event that showed it.
        text: in words, of one line.
        recovered: whether it is over, rather than begins.
        layer: the layer's index among those with experts; None for what concerns no layer.
        experts: those that died, or came back.
        label: what the model calls the layer; None for what concerns no layer.
    """

    kind: AlertKind
    step: int
    time: float
    text: str
    recovered: bool = False
    layer: int | None = None
    experts: tuple[int, ...] = ()
    label: str | None = None


def patience_s(gaps_s: Iterable[float], silent_after_s: float | None) -> float:
    """Seconds after which a run that trains counts as silent.

    Args:
        gaps_s: seconds between its last events.
        silent_after_s: the user's setting; None means twenty times the median gap, at least two
            minutes, because validation and a probe take longer than a few steps.
    """
    if silent_after_s is not None:
        return silent_after_s
    known = sorted(gap for gap in gaps_s if math.isfinite(gap) and gap >= 0)
    return max(120.0, 20 * known[len(known) // 2]) if known else 120.0


class Watch:
    """Sees one run's events in their order and gives the alerts they cause.

    Args:
        thresholds: those of the alerts.
        label: what the model calls a layer, by its index among those with experts.
    """

    def __init__(self, thresholds: Thresholds, label: Callable[[int], str] = str):
        self.thresholds = thresholds
        self._label = label
        self._crossed: set[Hashable] = set()
        self._dead: dict[int, frozenset[int]] = {}

    def router(self, frame: RouterFrame) -> list[Alert]:
        """Experts that died or came back, and load CV that crossed its threshold."""
        found = []
        limit = self.thresholds.load_cv_above
        for layer in frame.layers:
            label = self._label(layer.layer)
            before = self._dead.get(layer.layer, frozenset())
            now = frozenset(layer.dead)
            self._dead[layer.layer] = now
            for ids, recovered in ((now - before, False), (before - now, True)):
                if ids:
                    text = f"layer {label}: {_experts(ids)} " + (
                        "no longer dead" if recovered else "dead (under 1% of a fair share)"
                    )
                    found.append(
                        Alert(
                            "dead",
                            frame.step,
                            frame.time,
                            text,
                            recovered,
                            layer.layer,
                            tuple(sorted(ids)),
                            label,
                        )
                    )
            if (over := self._crosses(("load_cv", layer.layer), layer.load_cv, limit)) is not None:
                text = f"layer {label}: load CV {layer.load_cv:.2f} " + _against(over, limit)
                found.append(
                    Alert(
                        "load_cv", frame.step, frame.time, text, not over, layer.layer, label=label
                    )
                )
        return found

    def similarity(self, frame: SimilarityFrame) -> list[Alert]:
        """Mean similarity of a layer that crossed its threshold."""
        found = []
        limit = self.thresholds.cka_above
        for layer, mean in frame.means.items():
            if (over := self._crosses(("cka", layer), mean, limit)) is not None:
                label = self._label(layer)
                text = f"layer {label}: mean CKA {mean:.2f} " + _against(over, limit)
                found.append(
                    Alert("cka", frame.step, frame.time, text, not over, layer, label=label)
                )
        return found

    def loss(self, step: int, time: float, finite: bool) -> list[Alert]:
        """A loss that is not finite any more, or is again."""
        if finite == ("loss" not in self._crossed):
            return []
        if finite:
            self._crossed.discard("loss")
            return [Alert("non_finite", step, time, "the loss is finite again", True)]
        self._crossed.add("loss")
        return [Alert("non_finite", step, time, "the loss is not finite")]

    def silence(self, step: int, now: float, quiet_s: float, silent: bool) -> list[Alert]:
        """A run that fell silent, or is heard again."""
        if silent == ("silence" in self._crossed):
            return []
        if not silent:
            self._crossed.discard("silence")
            return [Alert("silent", step, now, "the run is heard again", True)]
        self._crossed.add("silence")
        return [Alert("silent", step, now, f"no event for {duration(quiet_s)}")]

    def _crosses(self, key: Hashable, value: float, limit: float) -> bool | None:
        """True where the value rises above the limit, False where it recovers, None otherwise."""
        if key not in self._crossed and value > limit:
            self._crossed.add(key)
            return True
        if key in self._crossed and value <= limit - RECOVERED_BELOW * abs(limit):
            self._crossed.discard(key)
            return False
        return None


def _against(over: bool, limit: float) -> str:
    return f"above {limit:g}" if over else f"no longer above {limit:g}"


def _experts(ids: frozenset[int]) -> str:
    known = sorted(ids)
    some = ", ".join(map(str, known[:8])) + (f" and {len(known) - 8} more" if known[8:] else "")
    return f"expert {some} is" if len(known) == 1 else f"experts {some} are"


def duration(seconds: float) -> str:
    """A time as a person says it: 42 s, 12 min, 3 h 20 min, 2 d 4 h; inf is a long time."""
    if not math.isfinite(seconds):
        return "a long time"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 60 * 24:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (60 * 24)} d {minutes // 60 % 24} h"
