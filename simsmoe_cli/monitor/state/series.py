"""One number over training, in bounded memory.

A series takes every value and keeps at most `capacity` buckets. When they are used up, neighbours
are joined, and from then on every bucket holds twice as many values. A bucket keeps its lowest,
highest and mean value, so that a spike of one step stays visible in a long run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """The points to plot: B buckets, oldest first.

    Attributes:
        step: last step of each bucket, [B].
        time: seconds since the epoch of that step, [B]; nan where it is not known.
        mean, low, high: of the values of a bucket, [B]; nan where none was a finite number.
    """

    step: Array
    time: Array
    mean: Array
    low: Array
    high: Array

    def __len__(self) -> int:
        return len(self.step)


# Rows of a bucket: where it ends, and what its values add up to.
_STEP, _TIME, _LOW, _HIGH, _SUM, _COUNT = range(6)


class Series:
    """Values by step.

    Args:
        capacity: buckets kept at most; even, at least 2.
    """

    def __init__(self, capacity: int = 4096):
        assert capacity >= 2
        assert capacity % 2 == 0
        self.capacity = capacity
        self.stride = 1  # values to a bucket
        self._rows = np.empty((6, 0))
        self._used = 0  # buckets begun
        self._filled = 0  # values in the last of them
        self.last = math.nan
        self.last_step = 0

    def __len__(self) -> int:
        return self._used

    def append(self, step: float, time: float, value: float | None) -> None:
        """Add one value; None and whatever is not finite leave a gap."""
        self.extend([step], [time], [value])

    def extend(
        self, steps: Sequence[float], times: Sequence[float], values: Sequence[float | None]
    ) -> None:
        """Add values in order; None and whatever is not finite leave gaps."""
        if not len(steps):
            return
        value = np.asarray(values, dtype=np.float64)
        here = np.isfinite(value)
        new = np.empty((6, len(value)))
        new[_STEP], new[_TIME] = steps, times
        new[_LOW] = np.where(here, value, np.inf)
        new[_HIGH] = np.where(here, value, -np.inf)
        new[_SUM] = np.where(here, value, 0.0)
        new[_COUNT] = here
        self.last, self.last_step = float(value[-1]), int(steps[-1])
        while new.shape[1]:
            new = self._fill(new)

    def _fill(self, new: Array) -> Array:
        """Put values into the buckets; returns those that do not fit."""
        if 0 < self._filled < self.stride:
            taken = min(self.stride - self._filled, new.shape[1])
            last = self._rows[:, self._used - 1 : self._used]
            joined = np.concatenate([last, new[:, :taken]], axis=1)
            self._rows[:, self._used - 1] = _joined(joined, joined.shape[1])[:, 0]
            self._filled += taken
            return new[:, taken:]
        if self._used == self.capacity:
            self._rows[:, : self._used // 2] = _joined(self._rows[:, : self._used], 2)
            self._used //= 2
            self.stride *= 2
            self._filled = self.stride
        taken = min((self.capacity - self._used) * self.stride, new.shape[1])
        buckets = -(-taken // self.stride)
        self._grow(self._used + buckets)
        self._rows[:, self._used : self._used + buckets] = _joined(new[:, :taken], self.stride)
        self._used += buckets
        self._filled = taken - (buckets - 1) * self.stride
        return new[:, taken:]

    def _grow(self, buckets: int) -> None:
        if buckets > self._rows.shape[1]:
            room = min(self.capacity, max(64, 2 * buckets))
            rows = np.empty((6, room))
            rows[:, : self._used] = self._rows[:, : self._used]
            self._rows = rows

    def points(self) -> Points:
        """All buckets, as arrays of their own."""
        rows = self._rows[:, : self._used].copy()
        empty = rows[_COUNT] == 0
        rows[:, empty] = np.where(
            np.isin(np.arange(6), (_STEP, _TIME))[:, None], rows[:, empty], np.nan
        )
        return Points(rows[_STEP], rows[_TIME], rows[_SUM] / rows[_COUNT], rows[_LOW], rows[_HIGH])


def _joined(rows: Array, size: int) -> Array:
    """Every `size` buckets made one; the last may be of fewer."""
    if size == 1:
        return rows
    starts = np.arange(0, rows.shape[1], size)
    ends = np.minimum(starts + size, rows.shape[1]) - 1
    return np.stack(
        [
            rows[_STEP, ends],
            rows[_TIME, ends],
            np.minimum.reduceat(rows[_LOW], starts),
            np.maximum.reduceat(rows[_HIGH], starts),
            np.add.reduceat(rows[_SUM], starts),
            np.add.reduceat(rows[_COUNT], starts),
        ]
    )
