"""Bars and sparklines are as long and as high as their values."""

from __future__ import annotations

import math

import numpy as np

from simsmoe_cli.monitor.draw.bars import bar, sparkline


def test_a_bar_is_as_long_as_its_value() -> None:
    drawn = [bar(value, 19) for value in (1.0, 0.5, 0.0, math.nan, -1.0, 7.0)]
    assert drawn == ["█" * 19, "█" * 9 + "▌", "", "", "", "█" * 19]


def test_a_sparkline_follows_its_values() -> None:
    assert sparkline(np.array([0.0, 1, 2, 3, 4, 5, 6, 7]), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline(np.array([0.0, math.nan, 1.0]), 3) == "▁ █"
    assert len(sparkline(np.arange(1000.0), 12)) == 12
    assert sparkline(np.array([]), 5) == ""
