"""From events to series, many train events at a time: one by one they would take half of the time
in which a long run opens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from simsmoe_cli.monitor.draw.sanitize import clean
from simsmoe_cli.monitor.state.series import Series
from simsmoe_cli.run.events import Event
from simsmoe_cli.run.score import Scoring, numbers

MAX_SERIES = 1024
SCALARS = ("lr", "grad_norm", "tokens_per_s", "step_ms")
GROUPS = {"losses": "loss.", "metrics": "metric."}
PAIRS = {"pairs_due": "pairs.due", "mean": "pairs.mean"}
_ABSENT = object()


class Gathered:
    """Series by name, and events that are yet to become part of them.

    Attributes:
        series: by name; see `history`.
    """

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self._train: list[Event] = []
        self._steps: list[float] = []
        self._times: list[float] = []
        self._single: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)

    def add(self, name: str, step: int, at: float, value: float) -> None:
        """Add one value with the next flush."""
        self._single[name].append((step, at, value))

    def train(self, event: Event, step: int, at: float) -> None:
        """Add a train event with the next flush."""
        self._train.append(event)
        self._steps.append(step)
        self._times.append(at)

    def flush(self, scoring: Scoring) -> None:
        """Add what waits; the scores of train events are read so."""
        for name, values in self._single.items():
            self._extend(name, *zip(*values, strict=True))
        self._single.clear()
        if self._train:
            self._flush_train(scoring)

    def _flush_train(self, scoring: Scoring) -> None:
        events = self._train
        self._extend("train", self._steps, self._times, scoring.column(events))
        for name in SCALARS:
            self._add_column(name, [event.get(name, _ABSENT) for event in events])
        for key, prefix in GROUPS.items():
            for name, values in self._fields(key):
                self._add_column(prefix + clean(name, 80), values)
        for name, values in self._fields("similarity"):
            if name in PAIRS:
                self._add_column(PAIRS[name], values)
        self._train, self._steps, self._times = [], [], []

    def _fields(self, key: str) -> Iterator[tuple[str, list[Any]]]:
        """Every field of an object inside the train events, with its values."""
        found = [event.get(key) for event in self._train]
        groups: list[dict[str, Any]] = [group if isinstance(group, dict) else {} for group in found]
        for name in islice(dict.fromkeys(chain.from_iterable(groups)), MAX_SERIES):
            yield name, [group.get(name, _ABSENT) for group in groups]

    def _add_column(self, name: str, values: list[Any]) -> None:
        """A field of the train events, where it is not absent."""
        steps, times = self._steps, self._times
        if _ABSENT in values:
            present = [i for i, value in enumerate(values) if value is not _ABSENT]
            if not present:
                return
            values = [values[i] for i in present]
            steps, times = [steps[i] for i in present], [times[i] for i in present]
        self._extend(name, steps, times, numbers(values))

    def _extend(
        self, name: str, steps: Sequence[float], times: Sequence[float], values: Any
    ) -> None:
        if name not in self.series:
            if len(self.series) >= MAX_SERIES:
                return
            self.series[name] = Series()
        self.series[name].extend(steps, times, values)
