"""Times in words."""

from __future__ import annotations

import math


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
