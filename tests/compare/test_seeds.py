"""Statistics over seeds, against SciPy and on data whose differences were planted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from simsmoe_cli.compare.seeds import (
    mean_over_seeds,
    paired_difference,
    seeds_to_show,
    t_quantile,
)


@pytest.mark.parametrize("freedom", [*range(1, 12), 30, 31, 999, 1_000, 1_001, 100_000])
def test_quantiles_of_t(freedom: int) -> None:
    for share in (0.5, 0.8, 0.975, 0.999):
        expected = stats.t.ppf(share, freedom)
        assert t_quantile(share, freedom) == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_mean_and_interval() -> None:
    values = [2.31, 2.35, 2.29, 2.30, 2.36]
    found = mean_over_seeds(values)
    error = stats.sem(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=error)
    assert found.interval is not None
    assert (found.mean, found.n) == (pytest.approx(2.322), 5)
    assert found.standard_error == pytest.approx(error)
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))


def test_a_single_run_has_no_interval() -> None:
    found = mean_over_seeds([2.3])
    assert (found.mean, found.n, found.standard_error, found.interval) == (2.3, 1, None, None)
    pair = paired_difference({0: 2.3}, {0: 2.5})
    assert pair is not None
    assert (pair.mean, pair.n) == (pytest.approx(-0.2), 1)
    assert (pair.deviation, pair.t, pair.bootstrap, pair.seeds_to_show(0.01)) == (None,) * 4
    assert not pair.shown


def test_differences_are_paired_by_seed() -> None:
    base = {0: 2.0, 1: 2.5, 2: 3.0, 3: 3.5, 9: 100.0}
    other = {3: 3.51, 2: 2.98, 1: 2.49, 0: 2.01, 4: -100.0}  # 9 and 4 have no partner
    found = paired_difference(other, base)
    differences = np.array([0.01, -0.02, -0.01, 0.01])
    assert found is not None
    assert found.n == 4
    low, high = stats.ttest_1samp(differences, 0).confidence_interval()
    assert found.t is not None
    assert found.bootstrap is not None
    assert (found.t.low, found.t.high) == pytest.approx((low, high))
    assert found.deviation == pytest.approx(differences.std(ddof=1))
    rng = np.random.default_rng(1)
    drawn = stats.bootstrap((differences,), np.mean, method="percentile", rng=rng)
    drawn_interval = drawn.confidence_interval
    assert (found.bootstrap.low, found.bootstrap.high) == pytest.approx(drawn_interval, abs=1e-3)
    assert not found.shown
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_equal_runs_show_no_difference() -> None:
    same = dict.fromkeys(range(3), 2.0)
    found = paired_difference(same, same)
    assert found is not None
    assert found.t is not None
    assert (found.t.low, found.t.high, found.shown) == (0, 0, False)


def test_planted_differences_are_found_as_often_as_promised() -> None:
    rng = np.random.default_rng(7)
    seeds, deviation, planted, times = 8, 0.01, 0.011, 400
    covered = shown = falsely = 0
    for _ in range(times):
        base = rng.normal(2.3, 0.05, seeds)
        noise = rng.normal(0, deviation, seeds)
        moved = paired_difference(dict(enumerate(base + planted + noise)), dict(enumerate(base)))
        still = paired_difference(dict(enumerate(base + noise)), dict(enumerate(base)))
        assert moved is not None
        assert still is not None
        assert moved.t is not None
        covered += moved.t.low <= planted <= moved.t.high
        shown += moved.shown
        falsely += still.shown
    # 400 draws have a standard error of 0.011 at 5% and 0.02 at 80%.
    assert covered / times == pytest.approx(0.95, abs=0.03)
    assert falsely / times == pytest.approx(0.05, abs=0.03)
    needed = seeds_to_show(planted, deviation)
    assert needed == pytest.approx(seeds, abs=1)
    assert shown / times == pytest.approx(0.8, abs=0.08)


@pytest.mark.parametrize("deviation", [0.002, 0.01, 0.03])
def test_seeds_needed_have_the_power_of_the_noncentral_t(deviation: float) -> None:
    def power(n: int) -> float:
        edge, shift = stats.t.ppf(0.975, n - 1), 0.01 / deviation * n**0.5
        outside = stats.nct.sf(edge, n - 1, shift) + stats.nct.cdf(-edge, n - 1, shift)
        return float(outside)

    exact = next(n for n in range(2, 1_000) if power(n) >= 0.8)
    assert seeds_to_show(0.01, deviation) == pytest.approx(exact, abs=1)


def test_seeds_needed_at_the_edges() -> None:
    assert seeds_to_show(0.01, 0.0) == 2
    assert seeds_to_show(-0.01, 0.01) == seeds_to_show(0.01, 0.01)
    assert seeds_to_show(1e-9, 1.0) is None
