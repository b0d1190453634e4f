"""A series in bounded memory: nothing that a person would see is lost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simsmoe_cli.monitor.state.series import Series

VALUES = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=400)


def test_few_values_are_kept_as_they_are() -> None:
    series = Series()
    for step, value in enumerate([3.0, None, 1.5]):
        series.append(step * 10, 100.0 + step, value)
    points = series.points()
    assert points.step.tolist() == [0, 10, 20]
    assert points.time.tolist() == [100, 101, 102]
    assert points.mean.tolist()[::2] == points.low.tolist()[::2] == [3.0, 1.5]
    assert math.isnan(points.mean[1])
    assert math.isnan(points.low[1])
    assert math.isnan(points.high[1])
    assert (series.last, series.last_step) == (1.5, 20)


def test_a_spike_of_one_step_survives_any_length() -> None:
    series = Series(capacity=64)
    for step in range(9_000):
        series.append(step, step, 1000.0 if step == 5_234 else math.sin(step))
    points = series.points()
    assert len(points) <= 64
    (spike,) = np.flatnonzero(points.high > 2)
    assert points.high[spike] == 1000
    before = points.step[spike - 1]
    assert before < 5_234 <= points.step[spike]


@given(VALUES, st.integers(1, 40))
def test_every_bucket_sums_up_its_values(values: list[float | None], capacity: int) -> None:
    series = Series(capacity=2 * capacity)
    for step, value in enumerate(values):
        series.append(step, 0.5 * step, value)
    points = series.points()
    assert len(points) <= 2 * capacity
    assert points.step[-1] == len(values) - 1
    begin = 0
    for at, (step, mean, low, high) in enumerate(
        zip(points.step, points.mean, points.low, points.high, strict=True)
    ):
        inside = [v for v in values[begin : int(step) + 1] if v is not None]
        assert at == len(points) - 1 or step + 1 - begin == series.stride
        begin = int(step) + 1
        if not inside:
            assert np.isnan([mean, low, high]).all()
            continue
        assert (low, high) == (min(inside), max(inside))
        assert mean == pytest.approx(sum(inside) / len(inside), abs=1e-6)


@given(VALUES, st.lists(st.integers(1, 100), max_size=8))
def test_many_at_once_are_the_same_as_one_by_one(
    values: list[float | None], sizes: list[int]
) -> None:
    one, many = Series(capacity=16), Series(capacity=16)
    for step, value in enumerate(values):
        one.append(step, step, value)
    begin = 0
    for size in [*sizes, len(values)]:
        part = values[begin : begin + size]
        steps = list(range(begin, begin + len(part)))
        many.extend(steps, steps, [math.nan if v is None else v for v in part])
        begin += len(part)
    for name in ("step", "time", "mean", "low", "high"):
        np.testing.assert_allclose(
            getattr(one.points(), name), getattr(many.points(), name), atol=1e-6
        )
    assert one.last == many.last or (math.isnan(one.last) and math.isnan(many.last))


def test_what_is_not_finite_is_a_gap() -> None:
    series = Series()
    series.extend([1, 2, 3], [1, 2, 3], [math.inf, -math.inf, 2.0])
    assert np.isnan(series.points().mean).tolist() == [True, True, False]
