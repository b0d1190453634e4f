"""Axes of plots: positions of values, round ticks, and numbers in few characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simsmoe_cli.monitor.draw.scales import Floats

SMALLEST = 1e-300  # numbers nearer to 0 have too few digits left to be told apart


@dataclass(frozen=True)
class Axis:
    """From values to positions.

    Attributes:
        low, high: values at the ends.
        log: whether equal distances are equal ratios.
        whole: whether all values are whole numbers, as steps are, so that ticks must be too.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def part(self, values: Floats) -> NDArray[np.float64]:
        """0 at the low end, 1 at the high one."""
        low, high = self.low, self.high
        values = np.asarray(values, dtype=np.float64)
        if self.log:
            with np.errstate(invalid="ignore", divide="ignore"):
                values = np.where(values > 0, np.log10(values), np.nan)
            low, high = math.log10(low), math.log10(high)
        return np.asarray((values - low) / (high - low))

    def ticks(self, most: int) -> list[float]:
        """Round values, not more than `most` + 1."""
        if self.log and self.high / self.low >= 10:
            return _log_ticks(self.low, self.high, most)
        if most < 1:
            return []
        width = self.high - self.low
        unit = 10.0 ** math.floor(math.log10(width / most))
        step = next(m * unit for m in (1, 2, 5, 10, 20, 50) if width / (m * unit) <= most)
        step = max(1.0, step) if self.whole else step
        first, last = math.ceil(self.low / step - 1e-6), math.floor(self.high / step + 1e-6)
        return [i * step for i in range(first, last + 1)]


def axis(values: Sequence[Floats], log: bool = False) -> Axis:
    """An axis on which all finite values fit (log: all values above SMALLEST)."""
    finite = [v[np.isfinite(v) & ((v > SMALLEST) if log else True)] for v in values]
    low = min((float(v.min()) for v in finite if v.size), default=1.0 if log else 0.0)
    high = max((float(v.max()) for v in finite if v.size), default=1.0)
    whole = not log and all(bool((v == np.rint(v)).all()) for v in finite)
    # Widen a span that floats of this size cannot divide.
    if high - low <= max(SMALLEST, 1e-9 * max(abs(low), abs(high))):
        room = abs(high) / 10 if abs(high) > SMALLEST and not (whole and abs(high) < 1e8) else 0.5
        low, high = (low / 1.1, high * 1.1) if log else (low - room, high + room)
    return Axis(low, high, log, whole)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    fine = [m * 10.0**d for d in range(decades.start - 1, decades.stop) for m in (1, 2, 5)]
    fine = [value for value in fine if low <= value <= high]
    if len(fine) <= most:
        return fine
    return [10.0**d for d in decades][:: -(-len(decades) // max(1, most))]


def short(value: float, step: float = 0.0) -> str:
    """A number in few characters: 950, 1.5k, 20M, 0.012, 3e-05; with as many digits as two numbers
    that differ by `step` need to look different."""
    if not math.isfinite(value):
        return "–"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            digits = _digits(step / size) if step else 2
            return (
                _trimmed(f"{value / size:.{min(digits, 3)}f}", keep=digits if step else 0) + letter
            )
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.1e}".replace(".0e", "e")
    return f"{value:.{_digits(step)}f}" if step else f"{value:.3g}"


def _digits(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0


def _trimmed(text: str, keep: int) -> str:
    return text.rstrip("0").rstrip(".") if "." in text and not keep else text
