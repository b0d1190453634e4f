"""Correlations over pairs of experts, against all pairs written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from simsmoe_cli.collapse.measure.correlation import correlate


def symmetric(seed: int, experts: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(experts, experts))
    return values + values.T


@pytest.mark.parametrize("ranks", [False, True])
def test_correlation_is_over_all_defined_pairs_of_all_layers(ranks: bool) -> None:
    layers = [(symmetric(0, 6), symmetric(1, 6)), (symmetric(2, 4), symmetric(3, 4))]
    for x, y in layers:
        y += 0.7 * x
    layers[0][0][2, 3] = layers[0][0][3, 2] = np.nan
    found = correlate(layers, ranks, 200, 0.95, np.random.default_rng(0))
    pairs = [
        (x[i, j], y[i, j])
        for x, y in layers
        for i, j in itertools.combinations(range(len(x)), 2)
        if np.isfinite(x[i, j])
    ]
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    if ranks:
        first, second = (np.argsort(np.argsort(side)).astype(float) for side in (first, second))
    assert found.n == 20
    assert found.value == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert found.low < found.value < found.high
    assert found.null_low < 0 < found.null_high


def test_relabelled_experts_are_the_null_of_a_correlation() -> None:
    beyond = []
    for seed in range(60):
        layers = [(symmetric(seed, 7), symmetric(1000 + seed, 7))]
        found = correlate(layers, False, 100, 0.95, np.random.default_rng(seed))
        beyond.append(not found.null_low <= found.value <= found.null_high)
    assert np.mean(beyond) <= 0.17


def test_a_correlation_with_nothing_to_go_by_is_undefined() -> None:
    constant = np.ones((5, 5))
    found = correlate([(constant, symmetric(0, 5))], False, 50, 0.95, np.random.default_rng(0))
    assert found.value is None
    assert found.low is None
    few = correlate([(symmetric(1, 2), symmetric(0, 2))], True, 50, 0.95, np.random.default_rng(0))
    assert few.value is None
    assert few.n == 1
