"""Changes of the loss: those of NumPy, with a paired interval that covers the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from simsmoe_cli.collapse.measure.ablation.intervals import Difference, Intervals
from simsmoe_cli.collapse.sources.replay import WindowScores


def made(
    unit: str = "byte", right: bool = False, seed: int = 0, windows: int = 60
) -> tuple[Intervals, Difference]:
    random = np.random.default_rng(seed)
    scored = torch.from_numpy(random.integers(20, 40, windows))
    nats = torch.from_numpy(random.uniform(50, 100, windows))
    known = torch.from_numpy(random.random(windows) < 0.7) if right else None
    before = WindowScores(nats, known)
    # Windows differ by far more than the case changes them.
    worse = torch.from_numpy(random.normal(0.5, 0.4, windows))
    case = WindowScores(nats + worse, None if known is None else known & (worse < 1))
    intervals = Intervals(scored, before, unit, 1.25, 2000, 0.95, seed)
    return intervals, Difference.of(case, before)


def test_a_change_is_the_difference_of_means_with_a_paired_bootstrap_interval() -> None:
    intervals, difference = made()
    change = intervals.change(difference)
    scored, nats = intervals.scored_W.numpy(), difference.nats_W.numpy()
    assert change.nats == pytest.approx(nats.sum() / scored.sum())
    assert change.in_unit == pytest.approx(1.25 * nats.sum() / scored.sum() / math.log(2))
    random = np.random.default_rng(9)
    drawn = random.integers(0, 60, (4000, 60))
    low, high = np.quantile(nats[drawn].sum(1) / scored[drawn].sum(1), [0.025, 0.975])
    assert change.low == pytest.approx(low, rel=0.05)
    assert change.high == pytest.approx(high, rel=0.05)


@pytest.mark.parametrize(("windows", "known"), [(1, False), (7, False), (8, True)])
def test_few_windows_have_no_interval(windows: int, known: bool) -> None:
    intervals, difference = made(windows=windows)
    change = intervals.change(difference)
    assert change.nats is not None
    assert (change.low is not None) == (change.high is not None) == known


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """The change of every window has mean 0.5 nats, over windows of 29.5 predictions."""
    truth, covered = 0.5 / 29.5, 0
    for seed in range(100):
        intervals, difference = made(seed=seed)
        change = intervals.change(difference)
        assert change.low is not None
        assert change.high is not None
        covered += change.low <= truth <= change.high
    assert covered >= 88


def test_the_same_draws_serve_all_cases_so_their_differences_are_paired() -> None:
    intervals, difference = made()
    nothing = intervals.change(difference.minus(difference))
    assert (nothing.nats, nothing.low, nothing.high) == (0, 0, 0)
    mean = Difference.mean([difference, Difference(3 * difference.nats_W)])
    assert intervals.change(mean).low == pytest.approx(2 * (intervals.change(difference).low or 0))


def test_the_models_own_score_is_changed_too() -> None:
    intervals, difference = made("piece")
    assert intervals.score_unit == "perplexity"
    nats = intervals.loss_nats + (intervals.change(difference).nats or 0)
    assert intervals.change(difference).in_unit == pytest.approx(math.exp(nats) - intervals.score)
    intervals, difference = made(right=True)
    assert intervals.score_unit == "accuracy"
    assert (intervals.change(difference).in_unit or 0) < 0
