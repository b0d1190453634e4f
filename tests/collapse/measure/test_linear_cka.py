"""Linear CKA of all pairs and its interval, against slow formulas and known populations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from simsmoe_cli.collapse.measure import linear_cka
from simsmoe_cli.collapse.measure.block_sums import Standardised
from simsmoe_cli.collapse.measure.linear_cka import cka_with_interval, partners
from simsmoe_cli.similarity.cka import (
    pairwise_debiased_cka,
    pairwise_linear_cka,
)
from tests.collapse.measure.made_outputs import cka, generator, related
from tests.collapse.planted import oracle_biased, oracle_debiased


@pytest.mark.parametrize(("rows", "width"), [(150, 8), (40, 64), (37, 20)])
def test_both_ckas_agree_with_gram_matrices_in_double(rows: int, width: int) -> None:
    outputs = related(4, rows, width, 1.0) * torch.tensor([1.0, 1e-3, 50, 1])[:, None, None] + 7
    found = cka(outputs)
    for i, j in itertools.product(range(4), repeat=2):
        x, y = outputs[i].double().numpy(), outputs[j].double().numpy()
        assert found.debiased[i, j].item() == pytest.approx(oracle_debiased(x, y), abs=2e-4)
        assert found.biased[i, j].item() == pytest.approx(oracle_biased(x, y), abs=2e-4)


def test_they_are_those_of_training() -> None:
    outputs = related(5, 300, 24, 0.7)
    found = cka(outputs)
    assert torch.allclose(found.debiased.float(), pairwise_debiased_cka(outputs), atol=1e-5)
    assert torch.allclose(found.biased.float(), pairwise_linear_cka(outputs), atol=1e-5)


def test_the_interval_is_that_of_a_slow_jackknife() -> None:
    outputs = related(3, 61, 6, 1.0)
    blocks, resamples = 7, 50
    found = cka(outputs, blocks, resamples)

    def hsic(keep: torch.Tensor, i: int, j: int) -> float:
        x, y = outputs[i][keep].double().numpy(), outputs[j][keep].double().numpy()
        n = len(x)
        k, m = x @ x.T, y @ y.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        one = np.ones(n)
        total = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return float((total - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3)))

    parts = torch.tensor_split(torch.arange(61), blocks)
    everything = torch.arange(61)
    drawn = torch.randint(blocks, (resamples, blocks), generator=generator()).numpy()

    def draws(i: int, j: int) -> np.ndarray:
        without = np.array(
            [hsic(everything[~torch.isin(everything, part)], i, j) for part in parts]
        )
        influence = (blocks - 1) * (without.mean() - without)
        return hsic(everything, i, j) + influence[drawn].mean(1)

    for i, j in ((0, 1), (1, 2)):
        ratio = draws(i, j) / np.sqrt(draws(i, i) * draws(j, j))
        low, high = np.quantile(ratio, [0.025, 0.975])
        assert found.low[i, j].item() == pytest.approx(low, abs=1e-4)
        assert found.high[i, j].item() == pytest.approx(high, abs=1e-4)


def test_the_interval_covers_the_population_value() -> None:
    truth = 1 / (1 + 0.8**2) ** 2
    covered: list[bool] = []
    for seed in range(25):
        found = cka(related(4, 512, 6, 0.8, seed), blocks=32)
        pairs = torch.triu_indices(4, 4, 1).unbind()
        covered += ((found.low[pairs] <= truth) & (truth <= found.high[pairs])).tolist()
        assert (found.low[pairs] <= found.debiased[pairs]).all()
        assert (found.debiased[pairs] <= found.high[pairs]).all()
    assert 0.85 <= np.mean(covered) <= 0.995


def test_fewer_pairs_of_rows_give_the_same_on_average() -> None:
    outputs = related(5, 512, 12, 0.9)
    outputs[2] *= torch.linspace(0.1, 4, 512)[:, None]
    whole = cka(outputs)
    some = [
        cka_with_interval(Standardised(outputs), 16, 0, 0, generator(seed), partners=1)
        for seed in range(150)
    ]
    assert whole.row_pairs == 1
    assert some[0].row_pairs == pytest.approx(48 / 256)
    drawn = torch.stack([found.debiased for found in some])
    error = drawn.std(0) / len(some) ** 0.5
    assert ((drawn.mean(0) - whole.debiased).abs() <= 4 * error + 2e-3).all()
    assert (drawn - whole.debiased).abs().max() < 0.1
    assert torch.equal(drawn[0].diagonal(), torch.ones(5, dtype=torch.float64))


def test_the_interval_of_fewer_pairs_of_rows_covers_the_population_value() -> None:
    truth = 1 / (1 + 0.8**2) ** 2
    covered: list[bool] = []
    pairs = torch.triu_indices(4, 4, 1).unbind()
    for seed in range(25):
        outputs = related(4, 512, 6, 0.8, seed)
        found = cka_with_interval(Standardised(outputs), 32, 200, 0.95, generator(), partners=2)
        covered += ((found.low[pairs] <= truth) & (truth <= found.high[pairs])).tolist()
    assert 0.85 <= np.mean(covered) <= 1


def test_as_many_pairs_of_rows_are_compared_as_may_be() -> None:
    assert partners(16, 4096, 256, 32, 4e10) is None
    few = partners(64, 4096, 2048, 32, 4e10)
    assert few == 1
    more = partners(64, 4096, 2048, 32, 4e11)
    assert more is not None
    assert more > few
    assert partners(512, 8192, 8192, 32, 1.0) == 1
    assert partners(4, 4, 8, 32, 1.0) is None


def test_the_bootstrap_of_some_experts_at_a_time_is_that_of_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs = related(5, 200, 8, 1.0)
    whole = cka(outputs)
    monkeypatch.setattr(linear_cka, "_CHUNK", 200 * 5 * 2)
    parts = cka(outputs)
    assert torch.allclose(parts.low, whole.low, equal_nan=True)
    assert torch.allclose(parts.high, whole.high, equal_nan=True)
    assert parts.mean == pytest.approx(whole.mean)


@pytest.mark.parametrize(("few_large", "defined"), [(24, True), (4, False)])
def test_resamples_without_variance_widen_an_interval_before_they_end_it(
    few_large: int, defined: bool
) -> None:
    """Experts 0 and 1 move most on a few rows, which some resamples leave out."""
    outputs = related(3, 512, 16, 0.5, seed=1)
    large = torch.randperm(512, generator=generator(1))[:few_large]
    outputs[:2, large] *= 40.0
    found = cka(outputs, blocks=32, resamples=1000)
    assert found.debiased[0, 1].isfinite()
    assert bool(found.low[0, 1].isfinite()) == bool(found.high[0, 1].isfinite()) == defined
    assert found.low[2, 2] == found.high[2, 2] == 1
    if defined:
        assert found.low[0, 1] <= found.debiased[0, 1] <= found.high[0, 1]


def test_more_rows_make_a_narrower_interval() -> None:
    few, many = (cka(related(2, rows, 6, 0.8)) for rows in (128, 4096))
    assert (many.high - many.low)[0, 1] < 0.5 * (few.high - few.low)[0, 1]


def test_the_mean_over_pairs_has_an_interval_of_its_own() -> None:
    found = cka(related(4, 600, 8, 1.0))
    value, low, high = found.mean
    assert value == pytest.approx(found.debiased[tuple(torch.triu_indices(4, 4, 1))].mean().item())
    assert low < value < high


def test_what_is_undefined_stays_so() -> None:
    outputs = related(4, 64, 6, 1.0)
    outputs[1] = 3.0  # the same for every row
    outputs[2] = 0.0
    outputs[2, 5] = 1.0  # all rows but one are equal
    found = cka(outputs)
    for matrix in (found.debiased, found.low, found.high):
        assert matrix[0, 3].isfinite()
        assert matrix[0, 0] == 1
        assert matrix[1].isnan().all()
        assert matrix[:, 1].isnan().all()
        assert matrix[2].isnan().all()
    assert found.biased[1].isnan().all()
    assert found.mean[0] == pytest.approx(found.debiased[0, 3].item())


def test_too_few_rows_for_an_interval_give_none() -> None:
    found = cka(related(2, 12, 4, 1.0))
    assert found.debiased[0, 1].isfinite()
    assert found.low[0, 1].isnan()
    assert found.high[0, 1].isnan()
