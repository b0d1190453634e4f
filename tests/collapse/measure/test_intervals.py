"""Intervals, nulls, ranks and matched weights, against slow formulas and known populations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from simsmoe_cli.collapse.measure import intervals as statistics
from simsmoe_cli.collapse.measure.intervals import PairwiseCka, cka_with_interval
from simsmoe_cli.similarity.agreement import pairwise_cosine
from simsmoe_cli.similarity.cka import (
    debiased_linear_cka,
    pairwise_debiased_cka,
    pairwise_linear_cka,
    pairwise_rbf_cka,
)
from tests.collapse.planted import oracle_biased, oracle_debiased


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def related(experts: int, rows: int, width: int, own: float, seed: int = 0) -> torch.Tensor:
    """Z + own * E_i with Z and all E_i standard: population CKA of each pair 1 / (1 + own^2)^2."""
    source = generator(seed)
    common = torch.randn(rows, width, generator=source)
    return common + own * torch.randn(experts, rows, width, generator=source)


def cka(outputs: torch.Tensor, blocks: int = 16, resamples: int = 200) -> PairwiseCka:
    return cka_with_interval(outputs, blocks, resamples, 0.95, generator())


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


def test_scaling_by_the_median_makes_sigma_one_the_median() -> None:
    outputs = related(3, 80, 10, 0.5) * torch.tensor([1.0, 30, 0.01])[:, None, None]
    found = pairwise_rbf_cka(statistics.median_scaled(outputs), 1.0)
    assert torch.allclose(found, pairwise_rbf_cka(outputs, "median"), atol=1e-4)
    x, y = outputs[0].double().numpy(), outputs[1].double().numpy()
    assert found[0, 1].item() == pytest.approx(oracle_biased(x, y, sigma=1.0), abs=1e-3)


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
        cka_with_interval(outputs, 16, 0, 0, generator(seed), partners=1) for seed in range(150)
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
        found = cka_with_interval(outputs, 32, 200, 0.95, generator(), partners=2)
        covered += ((found.low[pairs] <= truth) & (truth <= found.high[pairs])).tolist()
    assert 0.85 <= np.mean(covered) <= 1


def test_as_many_pairs_of_rows_are_compared_as_may_be() -> None:
    assert statistics.partners(16, 4096, 256, 32, 4e10) is None
    few = statistics.partners(64, 4096, 2048, 32, 4e10)
    assert few == 1
    more = statistics.partners(64, 4096, 2048, 32, 4e11)
    assert more is not None
    assert more > few
    assert statistics.partners(512, 8192, 8192, 32, 1.0) == 1
    assert statistics.partners(4, 4, 8, 32, 1.0) is None


def test_cosines_some_rows_at_a_time_are_those_of_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs = related(4, 70, 9, 1.0)
    outputs[1, 3] = 0
    outputs[2] = 5.0
    monkeypatch.setattr(statistics, "_CHUNK", 4 * 9 * 16)
    found = statistics.mean_cosine(outputs)
    assert torch.allclose(found.float(), pairwise_cosine(outputs), atol=1e-6, equal_nan=True)


def test_cka_on_shared_rows_is_that_of_those_rows() -> None:
    outputs = related(5, 300, 40, 0.7) * torch.tensor([1.0, 1e-3, 50, 1, 1])[:, None, None] + 3
    index = torch.randint(0, 5, (300, 2), generator=generator(2))
    index[:40] = torch.tensor([0, 1])
    index[index == 4] = torch.where(torch.arange(300)[:, None] % 9 == 0, 4, 5).expand_as(index)[
        index == 4
    ]
    outputs[3, (index == 3).any(1)] = 2.0
    found = statistics.cka_of_shared(outputs, index)
    sent = torch.stack([(index == expert).any(1) for expert in range(5)])
    for i, j in itertools.combinations(range(5), 2):
        both = sent[i] & sent[j]
        expected = debiased_linear_cka(outputs[i, both], outputs[j, both]).item()
        if both.sum() < statistics.FEWEST_SHARED or 3 in (i, j):
            assert found[i, j].isnan()
        else:
            assert found[i, j].item() == pytest.approx(expected, abs=1e-4)
    fewer = statistics.cka_of_shared(outputs, index, products=40 * 4e4)
    assert not fewer[0, 1].isnan()
    assert fewer[0, 1].item() == pytest.approx(found[0, 1].item(), abs=0.3)


def test_the_bootstrap_of_some_experts_at_a_time_is_that_of_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs = related(5, 200, 8, 1.0)
    whole = cka(outputs)
    monkeypatch.setattr(statistics, "_CHUNK", 200 * 5 * 2)
    parts = cka(outputs)
    assert torch.allclose(parts.low, whole.low, equal_nan=True)
    assert torch.allclose(parts.high, whole.high, equal_nan=True)
    assert parts.mean == pytest.approx(whole.mean)


def test_more_rows_make_a_narrower_interval() -> None:
    few, many = (cka(related(2, rows, 6, 0.8)) for rows in (128, 4096))
    assert (many.high - many.low)[0, 1] < 0.5 * (few.high - few.low)[0, 1]


def test_the_mean_over_pairs_has_an_interval_of_its_own() -> None:
    found = cka(related(4, 600, 8, 1.0))
    value, low, high = found.mean
    assert value == pytest.approx(found.debiased[tuple(torch.triu_indices(4, 4, 1))].mean().item())
    assert low < value < high


def test_independent_experts_are_as_often_beyond_the_null_as_it_says() -> None:
    beyond = []
    for seed in range(8):
        outputs = torch.randn(6, 200, 12, generator=generator(seed))
        pairs = tuple(torch.triu_indices(6, 6, 1))
        source = generator(100 + seed)
        null = torch.cat(
            [cka(statistics.shuffled(outputs, source), 4, 0).debiased[pairs] for _ in range(10)]
        )
        assert abs(null.mean().item()) < 0.005
        beyond += (cka(outputs).debiased[pairs] > torch.quantile(null, 0.95)).tolist()
    assert np.mean(beyond) <= 0.13


def test_shuffling_keeps_the_rows_of_each_expert_and_breaks_their_order() -> None:
    outputs = related(3, 50, 4, 0.0)
    mixed = statistics.shuffled(outputs, generator())
    for expert in range(3):
        assert {tuple(row) for row in mixed[expert].tolist()} == {
            tuple(row) for row in outputs[expert].tolist()
        }
    assert not torch.equal(mixed[0], mixed[1])


def test_one_row_moves_linear_cka_and_the_measures_beside_it_tell() -> None:
    same = torch.randn(1, 1000, 16, generator=generator()).repeat(2, 1, 1)
    same[1, 500] += 1000 * torch.randn(16, generator=generator(1))
    found = cka(same, blocks=32)
    assert found.debiased[0, 1] < 0.1
    assert found.low[0, 1].isnan()  # resamples without that row's block have no variance left
    assert pairwise_rbf_cka(statistics.median_scaled(same), 1.0)[0, 1] > 0.95
    assert pairwise_cosine(same)[0, 1] > 0.95


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


def test_effective_rank_counts_equal_directions() -> None:
    basis = torch.linalg.qr(torch.randn(200, 16, generator=generator()))[0]
    basis = torch.linalg.qr(basis - basis.mean(0))[0]
    three = basis.clone()
    three[:, 3:] = 0
    constant = torch.ones(200, 16)
    found = statistics.effective_rank(torch.stack([three, basis, constant]) + 5)
    assert found[0].item() == pytest.approx(3, abs=0.01)
    assert found[1].item() == pytest.approx(16, abs=0.01)
    assert found[2].isnan()


@pytest.mark.parametrize("shape", [(40, 12), (20, 50)])
def test_effective_rank_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    rows = torch.randn(1, *shape, generator=generator()) * torch.linspace(0.1, 3, shape[1])
    centred = (rows[0] - rows[0].mean(0)).double().numpy()
    share = np.linalg.svd(centred, compute_uv=False)
    share = share[share > 1e-9] / share.sum()
    expected = np.exp(-(share * np.log(share)).sum())
    assert statistics.effective_rank(rows)[0].item() == pytest.approx(expected, rel=1e-4)


def units(experts: int = 4, hidden: int = 48, width: int = 32) -> list[torch.Tensor]:
    source = generator()
    return [torch.randn(experts, hidden, width, generator=source) for _ in range(3)]


@pytest.mark.parametrize("budget", [1e12, 1e6])
def test_renumbered_and_rescaled_units_are_found_again(budget: float) -> None:
    parts = units()
    order = torch.randperm(48, generator=generator(3))
    for factor, part in zip((3.0, 1.0, 1 / 3), parts, strict=True):
        part[2] = factor * part[0][order]
    matched = statistics.matched_units(parts, budget, generator())
    found = matched.found
    assert matched.units == (48 if budget == 1e12 else 13)
    assert matched.weights == 1
    assert found[0, 2].item() == pytest.approx(1, abs=1e-5)
    assert found[0, 1].item() == pytest.approx(matched.chance, abs=0.04)
    assert torch.allclose(found, found.T)
    assert statistics.flat_cosine(parts)[0, 2].abs() < 0.1


def test_copies_are_found_by_some_of_the_weights_of_few_units() -> None:
    source = generator()
    parts = [torch.randn(4, 40, 600, generator=source) for _ in range(2)]
    order = torch.randperm(40, generator=generator(3))
    for part in parts:
        part[2] = part[0][order]
    matched = statistics.matched_units(parts, 1.0, generator())
    assert matched.units == statistics.FEWEST_UNITS
    assert matched.weights == pytest.approx(256 / 600)
    assert matched.found[0, 2].item() == pytest.approx(1, abs=1e-5)
    assert matched.found[0, 1].item() == pytest.approx(matched.chance, abs=0.06)
    assert matched.chance < 0.3


def test_flat_cosine_of_equal_weights_is_one() -> None:
    parts = units()
    for part in parts:
        part[1] = 5 * part[0]
    found = statistics.flat_cosine(parts)
    assert found[0, 1].item() == pytest.approx(1, abs=1e-5)
    assert found[0, 2].abs() < 0.1
