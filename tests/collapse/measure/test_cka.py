"""Nulls of shuffled rows, RBF CKA with the median width, and what one row moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simsmoe_cli.collapse.measure.cka import median_scaled, shuffled
from simsmoe_cli.similarity.agreement import pairwise_cosine
from simsmoe_cli.similarity.cka import pairwise_rbf_cka
from tests.collapse.measure.made_outputs import cka, generator, related
from tests.collapse.planted import oracle_biased


def test_scaling_by_the_median_makes_sigma_one_the_median() -> None:
    outputs = related(3, 80, 10, 0.5) * torch.tensor([1.0, 30, 0.01])[:, None, None]
    found = pairwise_rbf_cka(median_scaled(outputs), 1.0)
    assert torch.allclose(found, pairwise_rbf_cka(outputs, "median"), atol=1e-4)
    x, y = outputs[0].double().numpy(), outputs[1].double().numpy()
    assert found[0, 1].item() == pytest.approx(oracle_biased(x, y, sigma=1.0), abs=1e-3)


def test_shuffling_keeps_the_rows_of_each_expert_and_breaks_their_order() -> None:
    outputs = related(3, 50, 4, 0.0)
    mixed = shuffled(outputs, generator())
    for expert in range(3):
        assert {tuple(row) for row in mixed[expert].tolist()} == {
            tuple(row) for row in outputs[expert].tolist()
        }
    assert not torch.equal(mixed[0], mixed[1])


def test_independent_experts_are_as_often_beyond_the_null_as_it_says() -> None:
    beyond = []
    for seed in range(8):
        outputs = torch.randn(6, 200, 12, generator=generator(seed))
        pairs = tuple(torch.triu_indices(6, 6, 1))
        source = generator(100 + seed)
        null = torch.cat([cka(shuffled(outputs, source), 4, 0).debiased[pairs] for _ in range(10)])
        assert abs(null.mean().item()) < 0.005
        beyond += (cka(outputs).debiased[pairs] > torch.quantile(null, 0.95)).tolist()
    assert np.mean(beyond) <= 0.13


def test_one_row_moves_linear_cka_and_the_measures_beside_it_tell() -> None:
    same = torch.randn(1, 1000, 16, generator=generator()).repeat(2, 1, 1)
    same[1, 500] += 1000 * torch.randn(16, generator=generator(1))
    found = cka(same, blocks=32)
    assert found.debiased[0, 1] < 0.1
    assert found.low[0, 1].isnan()  # resamples without that row's block have no variance left
    assert pairwise_rbf_cka(median_scaled(same), 1.0)[0, 1] > 0.95
    assert pairwise_cosine(same)[0, 1] > 0.95
