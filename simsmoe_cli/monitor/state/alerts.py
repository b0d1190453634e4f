"""Alerts: each is reported once when it begins and once when it is over.

What probes measure alerts only after the warm-up of the training, since untrained experts are
similar by nature, and only when two probes in a row see it; so does the end of such an alert. A
value counts as recovered only when it is 5% below its threshold. Otherwise a value that stays close
to the threshold would cause an alert at every other probe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Literal

from simsmoe_cli.errors import listed
from simsmoe_cli.monitor.state.probes import RouterFrame, SimilarityFrame
from simsmoe_cli.run.duration import duration

AlertKind = Literal["dead", "load_cv", "cka", "non_finite", "silent"]

RECOVERED_BELOW = 0.05  # of the threshold
WARM_UP = 0.1  # of all steps, where the learning rate does not warm up for longer


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


def warm_up_steps(warmup_steps: int | None, total_steps: int | None) -> int:
    """Steps before which probes cause no alert; 0 where both numbers are unknown."""
    return max(warmup_steps or 0, round(WARM_UP * (total_steps or 0)))


def in_one_line(alerts: Iterable[Alert], thresholds: Thresholds) -> str:
    """Several alerts of a run in few words: "mean CKA above 0.8 in layers 1, 3; ...".

    Args:
        alerts: at least one.
        thresholds: that they crossed.
    """
    groups: dict[tuple[AlertKind, bool], list[Alert]] = {}
    for alert in alerts:
        groups.setdefault((alert.kind, alert.recovered), []).append(alert)
    limits = {"cka": thresholds.cka_above, "load_cv": thresholds.load_cv_above}
    names = {"cka": "mean CKA", "load_cv": "load CV"}
    told = []
    for (kind, recovered), group in groups.items():
        layers = list(dict.fromkeys(alert.label for alert in group if alert.label is not None))
        where = f" in layers {listed(layers, 6)}"
        if len(group) == 1 or not layers:
            told.append(group[-1].text)
        elif kind == "dead":
            count = sum(len(alert.experts) for alert in group)
            told.append(f"{count} experts {'no longer ' if recovered else ''}dead{where}")
        else:
            told.append(f"{names[kind]} {_against(not recovered, limits[kind])}{where}")
    return "; ".join(told)


class Watch:
    """Sees one run's events in their order and gives the alerts they cause.

    Args:
        thresholds: those of the alerts.
        label: what the model calls a layer, by its index among those with experts.

    Attributes:
        armed_from: steps from which probes can cause alerts.
    """

    def __init__(self, thresholds: Thresholds, label: Callable[[int], str] = str):
        self.thresholds = thresholds
        self.armed_from = 0
        self._label = label
        self._holds: set[Hashable] = set()  # what was reported and is not over
        self._seen_once: set[Hashable] = set()  # what the last probe saw change
        self._dead: dict[int, set[int]] = {}  # by layer: those that were dead at any probe

    def router(self, frame: RouterFrame) -> list[Alert]:
        """Experts that died or came back, and load CV that crossed its threshold."""
        if frame.step < self.armed_from:
            return []
        found = []
        limit = self.thresholds.load_cv_above
        for layer in frame.layers:
            number = layer.layer
            turned: dict[bool, set[int]] = {True: set(), False: set()}
            if layer.judged and layer.dead is not None:
                known = self._dead.setdefault(number, set())
                known.update(layer.dead)
                for expert in known:
                    now = self._turned(("dead", number, expert), expert in layer.dead)
                    if now is not None:
                        turned[now].add(expert)
            if died := turned[True]:
                text = f"{_experts(died)} dead (under 1% of a fair share)"
                found.append(self._of_layer("dead", frame, number, text, False, died))
            if revived := turned[False]:
                text = f"{_experts(revived)} no longer dead"
                found.append(self._of_layer("dead", frame, number, text, True, revived))
            if (over := self._crosses(("load_cv", number), layer.load_cv, limit)) is not None:
                text = f"load CV {layer.load_cv:.2f} {_against(over, limit)}"
                found.append(self._of_layer("load_cv", frame, number, text, not over))
        return found

    def similarity(self, frame: SimilarityFrame) -> list[Alert]:
        """Mean similarity of a layer that crossed its threshold."""
        if frame.step < self.armed_from:
            return []
        found = []
        limit = self.thresholds.cka_above
        for layer, mean in frame.means.items():
            if (over := self._crosses(("cka", layer), mean, limit)) is not None:
                text = f"mean CKA {mean:.2f} {_against(over, limit)}"
                found.append(self._of_layer("cka", frame, layer, text, not over))
        return found

    def loss(self, step: int, time: float, finite: bool) -> list[Alert]:
        """A loss that is not finite any more, or is again."""
        words = ("the loss is not finite", "the loss is finite again")
        return self._at_once("non_finite", not finite, step, time, words)

    def silence(self, step: int, now: float, quiet_s: float, silent: bool) -> list[Alert]:
        """A run that fell silent, or is heard again."""
        words = (f"no event for {duration(quiet_s)}", "the run is heard again")
        return self._at_once("silent", silent, step, now, words)

    def _of_layer(
        self,
        kind: AlertKind,
        frame: RouterFrame | SimilarityFrame,
        layer: int,
        text: str,
        recovered: bool,
        experts: Iterable[int] = (),
    ) -> Alert:
        label, ids = self._label(layer), tuple(sorted(experts))
        text = f"layer {label}: {text}"
        return Alert(kind, frame.step, frame.time, text, recovered, layer, ids, label)

    def _at_once(
        self, kind: AlertKind, wrong: bool, step: int, time: float, words: tuple[str, str]
    ) -> list[Alert]:
        """The alert where something went wrong, or is right again; nothing where it stays."""
        if wrong == (kind in self._holds):
            return []
        self._holds ^= {kind}
        return [Alert(kind, step, time, words[not wrong], not wrong)]

    def _crosses(self, key: Hashable, value: float, limit: float) -> bool | None:
        """True where the value has risen above the limit, False where it has recovered, None
        otherwise; an undefined value changes nothing."""
        if not math.isfinite(value):
            return None
        holds = key in self._holds
        return self._turned(key, value > limit - holds * RECOVERED_BELOW * abs(limit))

    def _turned(self, key: Hashable, beyond: bool) -> bool | None:
        """The new state of a condition that two probes in a row have seen; None where it stays."""
        if beyond == (key in self._holds):
            self._seen_once.discard(key)
            return None
        if key not in self._seen_once:
            self._seen_once.add(key)
            return None
        self._seen_once.discard(key)
        self._holds ^= {key}
        return beyond


def _against(over: bool, limit: float) -> str:
    return f"above {limit:g}" if over else f"no longer above {limit:g}"


def _experts(ids: set[int]) -> str:
    known = sorted(ids)
    some = listed(known, 8)
    return f"expert {some} is" if len(known) == 1 else f"experts {some} are"
