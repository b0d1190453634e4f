"""Agreement measures against their papers' formulas, token after token in float64."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simsmoe_cli.similarity import agreement
from tests.similarity.measuring import assert_follows, make, related, with_gradients

examples = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
rows = st.integers(2, 14)
widths = st.integers(2, 12)


def units(x: Tensor) -> list[Tensor]:
    return [row / (row @ row).sqrt() for row in x]


def average(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return average([u @ v for u, v in zip(units(x), units(y), strict=True)])


def absolute_cosine(x: Tensor, y: Tensor) -> Tensor:
    return average([(u @ v).abs() for u, v in zip(units(x), units(y), strict=True)])


def byol(x: Tensor, y: Tensor) -> Tensor:
    """2006.07733, eq. 2: |q - z'|^2 of unit vectors, z' without a gradient; both ways."""

    def loss(online: Tensor, target: Tensor) -> Tensor:
        pairs = zip(units(online), units(target.detach()), strict=True)
        return average([(q - z) @ (q - z) for q, z in pairs])

    return 1 - (loss(x, y) + loss(y, x)) / 2 / 2


def hypersphere(x: Tensor, y: Tensor, weight: float = 1.0) -> Tensor:
    """2005.10242, section 4.1: alignment with alpha = 2, uniformity with t = 1."""

    def uniformity(x: Tensor) -> Tensor:
        pairs = itertools.combinations(units(x), 2)
        return average([torch.exp(-((a - b) @ (a - b))) for a, b in pairs]).log()

    align = average([(u - v) @ (u - v) for u, v in zip(units(x), units(y), strict=True)])
    return -(align + weight * (uniformity(x) + uniformity(y)) / 2) / 2


def tico(x: Tensor, y: Tensor, weight: float = 1.0) -> Tensor:
    """2206.10698, without memory of earlier steps, averaged over both sides."""

    def spread(x: Tensor) -> Tensor:
        z = units(x)
        covariance = torch.stack([torch.outer(u, u) for u in z]).mean(0)
        return average([u @ covariance @ u for u in z])

    match = average([(u - v) @ (u - v) / 2 for u, v in zip(units(x), units(y), strict=True)])
    return 1 - (match + weight * (spread(x) + spread(y)) / 2)


def barlow_twins(x: Tensor, y: Tensor, weight: float = 5e-3) -> Tensor:
    """2103.03230, eq. 1 and 2."""
    a, b = x - x.mean(0), y - y.mean(0)
    d = x.shape[1]
    total = torch.zeros((), dtype=x.dtype)
    for i in range(d):
        for j in range(d):
            norms = a[:, i].square().sum().sqrt() * b[:, j].square().sum().sqrt()
            c = (a[:, i] * b[:, j]).sum() / norms
            total = total + ((1 - c) ** 2 if i == j else weight * c**2)
    return 1 - total / d


ORACLES: dict[str, Any] = {
    "cosine": cosine,
    "absolute_cosine": absolute_cosine,
    "byol": byol,
    "hypersphere": hypersphere,
    "tico": tico,
    "barlow_twins": barlow_twins,
}
WEIGHTED = ["hypersphere", "tico", "barlow_twins"]


@pytest.mark.parametrize("name", ORACLES)
@examples
@given(seed=seeds, n=rows, d=widths)
def test_value_and_gradient_follow_the_paper(name: str, seed: int, n: int, d: int) -> None:
    # Correlations of two rows are 1 or -1 with no gradient to speak of.
    n = max(n, 4) if name == "barlow_twins" else n
    assert_follows(getattr(agreement, name), ORACLES[name], *related(seed, n, d))


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("weight", [0.0, 0.3, 20.0])
@pytest.mark.parametrize(("n", "d"), [(9, 5), (5, 9)])
def test_the_weight_is_that_of_the_second_term(name: str, weight: float, n: int, d: int) -> None:
    function = getattr(agreement, name)
    assert_follows(
        lambda x, y: function(x, y, spread_weight=weight),
        lambda x, y: ORACLES[name](x, y, weight),
        *related(1, n, d),
    )


def test_byol_is_the_cosine_with_half_its_gradient() -> None:
    x, y = related(0, 20, 6)
    value, gradients = with_gradients(agreement.byol, x, y)
    expected, twice = with_gradients(agreement.cosine, x, y)
    torch.testing.assert_close(value, expected)
    for ours, theirs in zip(gradients, twice, strict=True):
        torch.testing.assert_close(2 * ours, theirs)


@examples
@given(seed=seeds, n=rows, d=widths, weight=st.sampled_from([0.0, 1.0, 8.0]))
def test_values_stay_within_their_ranges(seed: int, n: int, d: int, weight: float) -> None:
    for x, y in (related(seed, n, d), (make(seed, n, d), make(seed + 1, n, d))):
        for first, second in ((x, y), (x, x), (x, -x)):
            assert -1 - 1e-5 <= agreement.cosine(first, second) <= 1 + 1e-5
            assert 0 <= agreement.absolute_cosine(first, second) <= 1 + 1e-5
            most = weight * n / (n - 1)
            value = agreement.hypersphere(first, second, spread_weight=weight)
            assert -2 - 1e-4 <= value <= most + 1e-4
            value = agreement.tico(first, second, spread_weight=weight)
            assert -1 - weight - 1e-4 <= value <= 1 + 1e-5
            value = agreement.barlow_twins(first, second, spread_weight=weight)
            assert -3 - weight * (d - 1) - 1e-3 <= value <= 1 + 1e-5


@pytest.mark.parametrize("name", ORACLES)
def test_one_for_the_same_outputs_and_zero_for_unrelated_ones(name: str) -> None:
    x, y = make(0, 400, 64), make(1, 400, 64)
    measure = getattr(agreement, name)
    assert measure(x, x).item() == pytest.approx(1, abs=0.03)
    assert measure(x, y).item() == pytest.approx(0, abs=0.12 if "absolute" in name else 0.03)


def test_a_row_of_zeros_has_a_cosine_of_zero_and_no_gradient() -> None:
    x, y = related(0, 10, 6)
    x[3] = 0
    value, gradients = with_gradients(agreement.cosine, x, y)
    others = torch.arange(10) != 3
    torch.testing.assert_close(value, agreement.cosine(x, y, others) * 0.9)
    assert (gradients[0][3] == 0).all()


def test_a_constant_feature_correlates_with_none() -> None:
    x, y = related(0, 30, 6)
    x[:, 2] = 1e3
    value, gradients = with_gradients(agreement.barlow_twins, x, y)
    kept = [0, 1, 3, 4, 5]
    rest = agreement.barlow_twins(x[:, kept], y[:, kept], spread_weight=0.0)
    value_without_redundancy = agreement.barlow_twins(x, y, spread_weight=0.0)
    torch.testing.assert_close(value_without_redundancy, rest * 5 / 6, atol=1e-5, rtol=0)
    assert (gradients[0][:, 2] == 0).all()
    assert value.isfinite()
