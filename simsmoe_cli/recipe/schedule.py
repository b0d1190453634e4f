"""Numbers that may change over training.

A field that takes a schedule takes a number, or points [share of training, value] in the order of
training: linear between two points, constant before the first and after the last.
`[[0, 0.0], [0.1, 0.003]]` rises from 0 to 0.003 over the first tenth.

Values are computed on the host from the step alone, so nothing waits on the device and a resumed
run has the same values.
"""

from __future__ import annotations

import itertools

from simsmoe_cli.errors import printable

Schedule = list[list[float]]
MOST_POINTS = 1_000


def value_at(value: float | Schedule, progress: float) -> float:
    """The value of a number or schedule.

    Args:
        value: the field.
        progress: share of training that is done, 0..1.
    """
    if not isinstance(value, list):
        return value
    before, at_before = value[0]
    if progress <= before:
        return at_before
    for after, at_after in value[1:]:
        if progress <= after:
            share = (progress - before) / (after - before)
            return at_before + share * (at_after - at_before)
        before, at_before = after, at_after
    return at_before


def fault(schedule: Schedule, least: float, most: float) -> str:
    """The problem of a schedule's points; empty if there is none.

    Args:
        schedule: points of a field.
        least, most: bounds of its values.
    """
    if len(schedule) > MOST_POINTS:
        return f"a schedule has at most {MOST_POINTS:,} points, got {len(schedule):,}"
    if len(schedule) < 2 or any(len(point) != 2 for point in schedule):
        return "a schedule needs at least two points [share of training, value]"
    shares = [share for share, _ in schedule]
    if shares[0] < 0 or shares[-1] > 1 or any(a >= b for a, b in itertools.pairwise(shares)):
        return f"shares of training must ascend within 0..1, got {printable(shares)}"
    for _, value in schedule:
        if not least <= value <= most:
            return f"values must be within {least:g}..{most:g}, got {value:g}"
    return ""
