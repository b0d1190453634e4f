"""From numbers to colours that anyone can read."""

from __future__ import annotations

import math

import numpy as np

from simsmoe_cli.monitor.draw.scales import (
    LEVELS,
    Scale,
    color_bar,
    magnitude_scale,
    palette,
    similarity_scale,
)


def test_scales_grow_lighter_and_have_a_middle() -> None:
    for kind in ("viridis", "cividis"):
        light = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in palette(kind)]
        assert light == sorted(light)
    middle = Scale(-1, 1, "diverging")
    red, green, blue = middle.rgb(int(middle.level(np.array(0.0))))
    assert min(red, green, blue) > 230
    red, green, blue = middle.rgb(int(middle.level(np.array(-0.9))))
    assert blue > red
    red, green, blue = middle.rgb(int(middle.level(np.array(0.9))))
    assert red > blue


def test_values_beyond_the_ends_have_the_colours_of_the_ends() -> None:
    level = Scale(0, 1).level(np.array([-5.0, 0.0, 1.0, 7.0, math.nan, math.inf]))
    assert level.tolist() == [0, 0, LEVELS - 1, LEVELS - 1, -1, LEVELS - 1]


def test_similarity_diverges_only_where_it_is_clearly_negative() -> None:
    assert similarity_scale(np.array([0.9, -0.01, math.nan])) == Scale(0, 1)
    assert similarity_scale(np.array([0.9, -0.4])) == Scale(-1, 1, "diverging")
    assert similarity_scale(np.array([math.nan])) == Scale(0, 1)


def test_magnitudes_begin_at_zero_and_end_at_a_round_number() -> None:
    assert magnitude_scale(np.array([0.1234, 0.02])).high == 0.13
    assert magnitude_scale(np.array([0.12])).high == 0.12
    assert magnitude_scale(np.array([math.nan, 0.0])).high == 1


def test_a_colour_bar_has_its_ends_in_numbers() -> None:
    bar = color_bar(Scale(-1, 1, "diverging"), 30)
    assert bar.plain.startswith("-1.00 ")
    assert bar.plain.endswith(" 1.00")
    assert bar.cell_len == 30
    assert color_bar(Scale(), 30, color=False).plain.strip(
        "01. "
    ) == "░" * 4 + "▒" * 4 + "▓" * 4 + ("█" * 4)
    assert len(color_bar(Scale(), 5)) <= 5
