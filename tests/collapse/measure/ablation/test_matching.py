"""Assignments are those of all permutations tried; renumbered hidden units are found again."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from simsmoe_cli.collapse.measure.ablation.matching import assign, matched_order


def test_an_assignment_costs_as_little_as_the_best_permutation() -> None:
    random = np.random.default_rng(0)
    for number in range(120):
        size = int(random.integers(1, 7))
        cost = (
            random.normal(size=(size, size)) if number % 2 else random.integers(0, 4, (size, size))
        )
        found = assign(cost.astype(np.float64))
        assert sorted(found) == list(range(size))
        least = min(
            sum(cost[row, order[row]] for row in range(size))
            for order in itertools.permutations(range(size))
        )
        assert abs(cost[np.arange(size), found].sum() - least) < 1e-9


def test_renumbered_units_are_matched_under_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(3, 40, width, generator=generator) for width in (12, 7)]
    order = torch.randperm(40, generator=generator)
    for part in parts:
        part[2] = (part[0] + 0.3 * torch.randn(part[0].shape, generator=generator))[order]
    # Unit order[k] of expert 0 is unit k of expert 2.
    assert torch.equal(order[matched_order(parts, 0, 2)], torch.arange(40))
