"""Times in words."""

from __future__ import annotations

import math

import pytest

from simsmoe_cli.run.duration import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (3600, "1 h 0 min"),
        (200_000, "2 d 7 h"),
        (math.inf, "a long time"),
    ],
)
def test_durations_are_said_as_a_person_would(seconds: float, words: str) -> None:
    assert duration(seconds) == words
