"""Statistics over seeds: means, and differences between two settings paired by seed.

Runs of one setting that differ in their seed alone give a mean and its standard error. Two settings
are compared seed by seed, because runs of the same seed see the same batches: the differences vary
less than the scores. With d the differences of n seeds and s their standard deviation:

- the interval of Student's t, mean ± t(0.975, n - 1) s / sqrt(n), assumes that d is normal;
- the bootstrap's percentile interval (Efron and Tibshirani 1993) does not, but is too narrow for a
  few seeds, since n values cannot show how wide their tails are;
- the seeds that would show a difference of D are the smallest n whose paired t-test at 5% finds it
  with a probability of about 80%: (t(0.975, n - 1) + t(0.8, n - 1)) s / sqrt(n) <= D.

What is undefined (a standard error of one run, an interval of one pair) is None.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

COVERAGE = 0.95
POWER = 0.8
RESAMPLES = 10_000
MOST_SEEDS = 1_000_000  # above this, nothing is said about how many seeds are needed
NO_DIFFERENCE = "no difference shown"
S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """The ends of an interval."""

    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Mean:
    """A mean over n runs.

    Attributes:
        standard_error: of the mean; None of a single run.
        interval: 95%, Student's t; None of a single run.
    """

    mean: float
    n: int
    standard_error: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Difference:
    """A setting's score minus the baseline's, paired by seed.

    Attributes:
        mean: of the differences.
        n: pairs.
        deviation: standard deviation of the differences; None of a single pair, as the following.
        standard_error: of the mean.
        t: 95% interval of Student's t.
        bootstrap: 95% percentile interval of the bootstrap.
    """

    mean: float
    n: int
    deviation: float | None
    standard_error: float | None
    t: Interval | None
    bootstrap: Interval | None

    @property
    def shown(self) -> bool:
        """Whether the interval of Student's t excludes zero."""
        return self.t is not None and not self.t.holds_zero

    def seeds_to_show(self, difference: float) -> int | None:
        """How many seeds would show a difference of this size with a probability of about 80%.

        Returns:
            At least 2; None if the deviation is unknown, or more than a million are needed.
        """
        return None if self.deviation is None else seeds_to_show(difference, self.deviation)


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """The mean of a score over the seeds of one setting.

    Args:
        values: at least one, all finite.
    """
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Mean(mean, n, None, None)
    error = statistics.stdev(values) / math.sqrt(n)
    return Mean(mean, n, error, _t_interval(mean, error, n))


def paired_difference(scores: Mapping[S, float], baseline: Mapping[S, float]) -> Difference | None:
    """The difference between two settings, of the seeds that both have; None if they share none.

    Args:
        scores, baseline: by seed, all finite.
    """
    pairs = [scores[seed] - baseline[seed] for seed in scores if seed in baseline]
    if not pairs:
        return None
    mean, n = statistics.fmean(pairs), len(pairs)
    if n < 2:
        return Difference(mean, n, None, None, None, None)
    deviation = statistics.stdev(pairs)
    error = deviation / math.sqrt(n)
    return Difference(mean, n, deviation, error, _t_interval(mean, error, n), _bootstrap(pairs))


def seeds_to_show(difference: float, deviation: float) -> int | None:
    """How many seeds a paired t-test at 5% needs to find a difference with about 80% probability.

    Args:
        difference: to be found, not 0.
        deviation: standard deviation of the differences between two runs of one seed.

    Returns:
        At least 2; None if more than a million are needed.
    """

    def enough(n: int) -> bool:
        quantiles = t_quantile((1 + COVERAGE) / 2, n - 1) + t_quantile(POWER, n - 1)
        return quantiles * deviation / math.sqrt(n) <= abs(difference)

    if not enough(MOST_SEEDS):
        return None
    low, high = 1, 2
    while not enough(high):
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def t_quantile(share: float, freedom: int) -> float:
    """The quantile of Student's t.

    Args:
        share: of the distribution below it, at least 0.5 and less than 1.
        freedom: degrees of freedom, at least 1.
    """
    high = 1.0
    while _t_below(high, freedom) < share:
        high *= 2
    return _root(lambda t: _t_below(t, freedom) - share, 0.0, high)


def _t_below(t: float, freedom: int) -> float:
    """The share of Student's t below t >= 0 (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    if freedom > 1_000:  # the series grows with the degrees of freedom; Fisher's expansion
        z = t * (1 - 1 / (4 * freedom)) / math.sqrt(1 + t * t / (2 * freedom))
        return statistics.NormalDist().cdf(z)
    angle = math.atan(t / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (power - 1) / power
    inside = math.sin(angle) * total
    if odd:
        inside = (angle + inside) * 2 / math.pi
    return 0.5 + inside / 2


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing function crosses zero, by bisection to the last digits."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2


def _t_interval(mean: float, error: float, n: int) -> Interval:
    half = t_quantile((1 + COVERAGE) / 2, n - 1) * error
    return Interval(mean - half, mean + half)


def _bootstrap(values: Sequence[float]) -> Interval:
    """The percentile interval of the mean; the same values give the same interval."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (RESAMPLES, len(values)))
    low, high = np.quantile(drawn.mean(1), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(float(low), float(high))
