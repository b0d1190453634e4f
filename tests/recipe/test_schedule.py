"""Schedules: numbers that change over training."""

from __future__ import annotations

import pytest

from simsmoe_cli.recipe.schedule import fault, value_at

RISE = [[0.2, 1.0], [0.4, 3.0], [0.8, 0.0]]


@pytest.mark.parametrize(
    ("progress", "value"),
    [(0.0, 1), (0.2, 1), (0.3, 2), (0.4, 3), (0.5, 2.25), (0.8, 0), (0.9, 0), (1.0, 0)],
)
def test_straight_between_points_and_level_outside(progress: float, value: float) -> None:
    assert value_at(RISE, progress) == pytest.approx(value)


def test_a_number_is_itself() -> None:
    assert [value_at(0.3, progress) for progress in (0.0, 0.5, 1.0)] == [0.3] * 3


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([], "at least two points"),
        ([[0, 1]], "at least two points"),
        ([[0, 1], [1]], "at least two points"),
        ([[0.1, 0], [0.1, 1]], "ascend within 0..1"),
        ([[0.5, 0], [0.1, 1]], "ascend within 0..1"),
        ([[-0.1, 0], [0.5, 1]], "ascend within 0..1"),
        ([[0, 0], [1.1, 1]], "ascend within 0..1"),
        ([[0, 0], [1, 2]], "within 0..1, got 2"),
        ([[0, -1], [1, 1]], "within 0..1, got -1"),
        ([[0, 0], [1, 1]], ""),
    ],
)
def test_what_is_wrong_with_points(points: list[list[float]], words: str) -> None:
    found = fault(points, 0, 1)
    assert words in found
    assert bool(words) == bool(found)
