"""Experts in the order of clusters."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from simsmoe_cli.run.cluster_order import MOST, cluster_order


def planted(groups: list[list[int]], rows: int) -> np.ndarray:
    """0.9 within a group, 0.1 between groups, with a little noise."""
    noise = np.random.default_rng(3).uniform(0, 0.02, (rows, rows))
    values = 0.1 + noise + noise.T
    for group in groups:
        values[np.ix_(group, group)] += 0.8
    return values


def test_planted_clusters_stand_together_whatever_the_numbers_of_their_experts() -> None:
    groups = [[0, 9, 17, 4], [1, 2, 30], [5, 31, 12, 13, 14]]
    order = cluster_order(planted(groups, 32)).tolist()
    assert sorted(order) == list(range(32))
    for group in groups:
        places = [order.index(expert) for expert in group]
        assert max(places) - min(places) == len(group) - 1


def test_it_is_average_linkage() -> None:
    """Against a plain one, by the sets that are contiguous."""
    values = np.random.default_rng(5).uniform(0, 1, (9, 9))
    values = (values + values.T) / 2
    clusters = [frozenset([row]) for row in range(9)]
    order = cluster_order(values).tolist()
    while len(clusters) > 1:
        one, two = max(
            combinations(clusters, 2),
            key=lambda both: np.mean([values[i, j] for i in both[0] for j in both[1]]),
        )
        clusters = [cluster for cluster in clusters if cluster not in (one, two)] + [one | two]
        places = sorted(order.index(row) for row in one | two)
        assert places == list(range(places[0], places[0] + len(places)))


@pytest.mark.parametrize("rows", [1, 2, 5, 6])
def test_undefined_values_and_few_rows_lose_nobody(rows: int) -> None:
    values = np.full((rows, rows), 0.5)
    values[0] = values[:, 0] = math.nan
    assert sorted(cluster_order(values).tolist()) == list(range(rows))
    assert cluster_order(np.zeros((MOST + 1, MOST + 1))).tolist() == list(range(MOST + 1))
