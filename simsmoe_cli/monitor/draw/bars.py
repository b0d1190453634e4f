"""Bars and sparklines of terminal cells: pure functions from numbers to text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.text import Text

from simsmoe_cli.monitor.draw.axes import axis
from simsmoe_cli.monitor.draw.scales import Floats

BARS = " ▏▎▍▌▋▊▉█"
SPARKS = "▁▂▃▄▅▆▇█"


def bars(
    labels: Sequence[str],
    values: Floats,
    width: int,
    *,
    high: float | None = None,
    style: str = "",
    digits: int = 2,
) -> list[Text]:
    """A line per value: label, bar, number. Bars begin at 0; negative and undefined ones are empty.

    Args:
        high: value of a full bar; None takes the largest.
    """
    finite = values[np.isfinite(values)]
    top = high if high is not None else float(finite.max()) if finite.size else 1.0
    wide = max((len(label) for label in labels), default=0)
    numbers = ["–" if math.isnan(v) else f"{v:.{digits}f}" for v in values.tolist()]
    room = max(0, width - wide - 2 - max(map(len, numbers), default=0))
    lines = []
    for label, value, written in zip(labels, values.tolist(), numbers, strict=True):
        part = 0.0 if math.isnan(value) or top <= 0 else min(1.0, max(0.0, value / top))
        eighths = round(part * room * 8)
        bar = "█" * (eighths // 8) + BARS[eighths % 8].strip()
        line = Text(f"{label.rjust(wide)} ")
        line.append(bar.ljust(room), style)
        line.append(f" {written}")
        lines.append(line)
    return lines


def sparkline(values: Floats, width: int) -> str:
    """The course of values in one line, newest at the right; blank where undefined."""
    if not len(values) or width < 1:
        return ""
    parts = np.array_split(values, min(width, len(values)))
    means = np.array(
        [part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan for part in parts]
    )
    scaled = axis([means]).part(means)
    return "".join(
        " " if math.isnan(v) else SPARKS[min(7, max(0, int(v * 8)))] for v in scaled.tolist()
    )
