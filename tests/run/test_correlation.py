"""Correlations and ranks: numpy's where all is defined, nan where they have no meaning."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simsmoe_cli.run.correlation import of_sums, pearson, ranks, standardised


def test_pearson_is_numpys_and_undefined_where_it_has_no_meaning() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50))
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert pearson(1e9 + x, 1e-9 * y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    y[3] = np.nan
    assert pearson(x, y) == pytest.approx(np.corrcoef(np.delete(x, 3), np.delete(y, 3))[0, 1])
    assert math.isnan(pearson(np.ones(9), x[:9]))
    assert math.isnan(pearson(x[:2], y[:2]))


def test_several_correlations_from_their_sums_at_once() -> None:
    x, y = (standardised(values) for values in np.random.default_rng(1).normal(size=(2, 20)))
    weight = np.array([np.ones(20), np.arange(20) % 3])
    sums = np.stack([(weight * part).sum(1) for part in (1 + 0 * x, x, y, x * y, x * x, y * y)])
    thrice = np.repeat(np.stack([x, y]), (np.arange(20) % 3), axis=1)
    expected = [np.corrcoef(x, y)[0, 1], np.corrcoef(thrice)[0, 1]]
    assert of_sums(sums) == pytest.approx(expected)


def test_ranks_share_ties_and_leave_out_what_is_undefined() -> None:
    assert ranks(np.array([3.0, 1, 3, 2, 3])).tolist() == [4, 1, 4, 2, 4]
    assert ranks(np.array([5.0, np.nan, 1.0, 5.0])).tolist()[::2] == [2.5, 1]
    x = np.array([1.0, 2.0, 3.0, np.nan, 4.0])
    y = np.array([1.0, 4.0, 9.0, np.nan, 16.0])
    assert pearson(ranks(x), ranks(y)) == pytest.approx(1)
