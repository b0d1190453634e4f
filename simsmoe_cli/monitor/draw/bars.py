"""Bars and sparklines of terminal cells: pure functions from numbers to text."""

from __future__ import annotations

import math

import numpy as np

from simsmoe_cli.monitor.draw.axes import axis
from simsmoe_cli.monitor.draw.scales import Floats

BARS = " ▏▎▍▌▋▊▉█"
SPARKS = "▁▂▃▄▅▆▇█"


def bar(part: float, width: int) -> str:
    """A bar as long as a part (0 to 1) of the width, exact to an eighth of a cell; "" for nan."""
    eighths = round(max(0.0, min(1.0, part)) * width * 8) if math.isfinite(part) else 0
    return "█" * (eighths // 8) + BARS[eighths % 8].strip()


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
