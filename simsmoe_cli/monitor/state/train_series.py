"""Adds train events to series, many at a time.

One by one they would take half of the time that a long run needs to open.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any, cast

from simsmoe_cli.monitor.draw.sanitize import clean
from simsmoe_cli.monitor.state.series import Series
from simsmoe_cli.run.events import Number, Train
from simsmoe_cli.run.score import Scoring

MAX_SERIES = 1024
SCALARS = ("lr", "grad_norm", "tokens_per_s", "step_ms")
GROUPS = {"losses": "loss.", "metrics": "metric.", "machine": "machine."}
PAIRS = {"pairs_due": "pairs.due", "mean": "pairs.mean"}
_ABSENT = object()


class Gathered:
    """Series by name, and events that are yet to become part of them.

    Attributes:
        series: by name; see `run`.
    """

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self._train: list[Train] = []
        self._steps: list[float] = []
        self._times: list[float] = []
        self._single: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)

    def add(self, name: str, step: int, at: float, value: float) -> None:
        """Add one value with the next flush."""
        self._single[name].append((step, at, value))

    def train(self, event: Train, step: int, at: float) -> None:
        """Add a train event with the next flush."""
        self._train.append(event)
        self._steps.append(step)
        self._times.append(at)

    def flush(self, scoring: Scoring) -> None:
        """Add the waiting values to their series."""
        for name, values in self._single.items():
            self._extend(name, *zip(*values, strict=True))
        self._single.clear()
        if self._train:
            scores = [scoring.of(event) for event in self._train]
            self._extend("train", self._steps, self._times, scores)
            self._add_columns({name: name for name in SCALARS}, self._train)
            for group, prefix in GROUPS.items():
                fields = [cast(dict[str, Any], event.get(group, {})) for event in self._train]
                names = islice(dict.fromkeys(chain.from_iterable(fields)), MAX_SERIES)
                self._add_columns({name: prefix + clean(name, 80) for name in names}, fields)
            self._add_columns(PAIRS, [event.get("similarity", {}) for event in self._train])
        self._train, self._steps, self._times = [], [], []

    def _add_columns(self, names: Mapping[str, str], events: Sequence[Mapping[str, Any]]) -> None:
        """Fields of the train events, by the names of their series, where they are not absent."""
        for field, series in names.items():
            values = [event.get(field, _ABSENT) for event in events]
            steps, times = self._steps, self._times
            if _ABSENT in values:
                present = [at for at, value in enumerate(values) if value is not _ABSENT]
                values = [values[at] for at in present]
                steps, times = [steps[at] for at in present], [times[at] for at in present]
            if values:
                self._extend(series, steps, times, values)

    def _extend(
        self,
        name: str,
        steps: Sequence[float],
        times: Sequence[float],
        values: Sequence[Number],
    ) -> None:
        if name in self.series or len(self.series) < MAX_SERIES:
            self.series.setdefault(name, Series()).extend(steps, times, values)
