"""From numbers to colours that anyone can read."""

from __future__ import annotations

import math

import numpy as np

from simsmoe_cli.monitor.draw.scales import (
    LEVELS,
    SIMILARITY_SCALE,
    Scale,
    change_scale,
    color_bar,
    magnitude_scale,
    palette,
)


def test_scales_grow_lighter_and_have_a_middle() -> None:
    for kind in ("similarity", "magnitude"):
        light = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in palette(kind)]
        assert light == sorted(light)
    middle = Scale(-1, 1, "change")
    red, green, blue = middle.rgb(int(middle.level(np.array(0.0))))
    assert min(red, green, blue) > 230
    red, green, blue = middle.rgb(int(middle.level(np.array(-0.9))))
    assert blue > red
    red, green, blue = middle.rgb(int(middle.level(np.array(0.9))))
    assert red > blue


def test_values_beyond_the_ends_have_the_colours_of_the_ends() -> None:
    level = Scale(0, 1).level(np.array([-5.0, 0.0, 1.0, 7.0, math.nan, math.inf]))
    assert level.tolist() == [0, 0, LEVELS - 1, LEVELS - 1, -1, LEVELS - 1]


def test_a_similarity_below_0_has_the_colour_of_0() -> None:
    level = SIMILARITY_SCALE.level(np.array([-0.4, 0.0, 1.0]))
    assert level.tolist() == [0, 0, LEVELS - 1]


def test_changes_have_the_same_scale_on_both_sides_of_0() -> None:
    assert change_scale(np.array([0.32, -0.61, math.nan])) == Scale(-0.7, 0.7, "change")
    assert change_scale(np.array([0.001])) == Scale(-0.1, 0.1, "change")
    assert change_scale(np.array([math.nan])) == Scale(-1, 1, "change")


def test_magnitudes_begin_at_zero_and_end_at_a_round_number() -> None:
    assert magnitude_scale(np.array([0.1234, 0.02])).high == 0.13
    assert magnitude_scale(np.array([0.12])).high == 0.12
    assert magnitude_scale(np.array([math.nan, 0.0])).high == 1


def test_a_colour_bar_has_its_ends_in_numbers() -> None:
    bar = color_bar(Scale(-1, 1, "change"), 30)
    assert bar.plain.startswith("-1.00 ")
    assert bar.plain.endswith(" 1.00")
    assert bar.cell_len == 30
    assert color_bar(Scale(), 30, color=False).plain.strip(
        "01. "
    ) == "░" * 4 + "▒" * 4 + "▓" * 4 + ("█" * 4)
    assert len(color_bar(Scale(), 5)) <= 5
