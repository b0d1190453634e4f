"""What every measure of the registry must do, whatever it computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simsmoe_cli.recipe.similarity import SimilaritySettings
from simsmoe_cli.registry import MEASURES, load, resolve
from tests.similarity.measuring import make, related, with_gradients

every_measure = pytest.mark.parametrize("name", MEASURES)
examples = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)


def measure(name: str) -> Callable[..., Tensor]:
    """With a kernel as wide as the outputs."""
    found: Callable[..., Tensor] = load("similarity", name)
    if name == "cka-rbf":
        return lambda x, y, mask=None: found(x, y, mask, sigma="median")
    return found


@every_measure
def test_options_are_its_parameters_and_fields_of_the_recipe(name: str) -> None:
    x, y, mask, *options = inspect.signature(load("similarity", name)).parameters
    assert (x, y, mask) == ("x", "y", "mask")
    assert ("total" in options) == MEASURES[name].adds_up
    options = [option for option in options if option != "total"]
    assert set(options) == set(MEASURES[name].options)
    assert set(options) <= set(SimilaritySettings.model_fields)


OTHERS: dict[str, Any] = {
    "sigma": 5.0,
    "temperature": 0.33,
    "rince_lambda": 0.2,
    "rince_q": 0.9,
    "directclr_width": 5,
    "spread_weight": 0.4,
}


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name, row in MEASURES.items() for option in row.options]
)
def test_every_option_has_an_effect(name: str, option: str) -> None:
    x, y = related(0, 20, 12)
    function = load("similarity", name)
    assert function(x, y) != function(x, y, **{option: OTHERS[option]})


@every_measure
@examples
@given(seed=seeds, n=st.integers(24, 60), d=st.integers(8, 24))
def test_more_alike_is_higher(name: str, seed: int, n: int, d: int) -> None:
    x, near = related(seed, n, d, noise=0.2)
    unrelated = make(seed + 7, n, d)
    same, close, apart = (measure(name)(x, y).item() for y in (x, near, unrelated))
    assert min(same, close) > apart + 0.1


@every_measure
def test_following_its_gradient_down_makes_experts_less_alike(name: str) -> None:
    x, y = related(0, 40, 12, noise=0.2)
    y.requires_grad_()
    optimizer = torch.optim.Adam([y], lr=0.05)
    start = measure(name)(x, y).item()
    for _ in range(30):
        optimizer.zero_grad()
        measure(name)(x, y).backward()
        optimizer.step()
    assert measure(name)(x, y) < start - 0.3


@every_measure
@examples
@given(seed=seeds, n=st.integers(8, 60), d=st.integers(2, 24))
def test_symmetric(name: str, seed: int, n: int, d: int) -> None:
    x, y = related(seed, n, d)
    torch.testing.assert_close(measure(name)(x, y), measure(name)(y, x), atol=1e-4, rtol=1e-5)


@every_measure
@examples
@given(seed=seeds, n=st.integers(4, 40), d=st.integers(2, 24), data=st.data())
def test_masked_batch_equals_a_loop_over_the_rows_inside(
    name: str, seed: int, n: int, d: int, data: st.DataObject
) -> None:
    pairs = 4
    x, y = make(seed, pairs, n, d), make(seed + 1, pairs, n, d)
    y = y + 0.5 * x
    counts = data.draw(st.lists(st.integers(0, n), min_size=pairs, max_size=pairs))
    order = torch.rand(pairs, n, generator=torch.Generator().manual_seed(seed)).argsort(1)
    mask = order < torch.tensor(counts)[:, None]

    function = measure(name)
    values, gradients = with_gradients(lambda a, b: function(a, b, mask).nan_to_num(), x, y)
    for p in range(pairs):
        inside = mask[p]
        if not inside.any():
            assert values[p] == 0
            continue
        value, wanted = with_gradients(
            lambda a, b: function(a, b).nan_to_num(), x[p, inside], y[p, inside]
        )
        torch.testing.assert_close(values[p], value, atol=1e-5, rtol=1e-5)
        for got, want in zip(gradients, wanted, strict=True):
            tolerance = 1e-3 * want.abs().max().item() + 2e-5
            torch.testing.assert_close(got[p, inside], want, atol=tolerance, rtol=0)
            assert (got[p, ~inside] == 0).all()


@every_measure
@examples
@given(seed=seeds, n=st.integers(2, 40), d=st.integers(2, 24), scale=st.integers(-3, 6))
def test_undefined_for_a_constant_expert(name: str, seed: int, n: int, d: int, scale: int) -> None:
    y = make(seed, n, d)
    constant = (10.0**scale * (1 + make(seed + 1, d))).expand(n, d)
    for pair in ((constant, y), (y, constant), (constant, constant)):
        value, gradients = with_gradients(measure(name), *pair)
        assert value.isnan()
        assert all((gradient == 0).all() for gradient in gradients)


@every_measure
def test_undefined_without_enough_rows(name: str) -> None:
    x, y = related(0, 12, 6)
    for n in (0, 1):
        value, gradients = with_gradients(
            lambda a, b, n=n: measure(name)(a, b, torch.arange(12) < n), x, y
        )
        assert value.isnan()
        assert all((gradient == 0).all() for gradient in gradients)


@every_measure
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_broken_outputs_are_undefined_and_have_no_gradient(name: str, bad: float) -> None:
    x, y = related(1, 40, 12)
    x[5, 0] = bad
    value, gradients = with_gradients(measure(name), x, y)
    assert value.isnan()
    assert all((gradient == 0).all() for gradient in gradients)
    inside = torch.arange(40) != 5
    masked, gradients = with_gradients(lambda a, b: measure(name)(a, b, inside), x, y)
    assert masked.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_measure
@pytest.mark.parametrize(
    "scale", [1e-38, 1e-20, 1e-12, 1e-10, 1e-5, 1e5, 1e10, 1e11, 1e13, 1e20, 1e37]
)
def test_gradients_are_finite_at_any_scale(name: str, scale: float) -> None:
    x, y = related(1, 40, 12)
    for pair in ((scale * x, scale * y), (scale * x, y), (scale * x, scale * x)):
        value, gradients = with_gradients(measure(name), *pair)
        assert value.isnan() or value.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


@every_measure
@pytest.mark.parametrize("kind", ["repeated", "half zeros", "one outlier", "opposite"])
def test_gradients_are_finite_for_special_rows(name: str, kind: str) -> None:
    x, y = related(1, 40, 12)
    row = torch.arange(40)[:, None]
    if kind == "repeated":
        x = x[torch.arange(40) % 3]
    elif kind == "half zeros":
        x = torch.where(row < 20, x, 0.0)
    elif kind == "one outlier":
        x = torch.where(row == 7, 1e6 * x, x)
    else:
        y = -x
    value, gradients = with_gradients(measure(name), x, y)
    assert value.isnan() or value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_measure
def test_low_precision_outputs_are_measured_in_fp32(name: str) -> None:
    x, y = (each.bfloat16() for each in related(2, 40, 24))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = measure(name)(x, y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, measure(name)(x.float(), y.float()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name, row in MEASURES.items() if row.all_pairs])
@pytest.mark.parametrize(("experts", "tokens", "width"), [(2, 5, 3), (5, 40, 24), (5, 300, 6)])
def test_the_form_for_all_pairs_equals_the_pairs(
    name: str, experts: int, tokens: int, width: int
) -> None:
    """Values and gradients, with a row of zeros and an undefined expert among the others."""
    outputs = make(0, experts, tokens, width) + make(1, 1, tokens, width)
    outputs[0, 2] = 0.0
    if experts > 2:
        outputs[1] = 3.0
    all_pairs, one_pair = resolve(MEASURES[name].all_pairs), load("similarity", name)
    options = {"sigma": 3.0} if name == "cka-rbf" else {}
    matrix = all_pairs(outputs, **options)
    assert torch.equal(matrix.isnan(), matrix.T.isnan())
    defined = ~matrix.isnan().all(1)
    assert defined.sum() == experts - (experts > 2)
    first, second = torch.triu_indices(experts, experts, 1)

    def matrix_form(z: Tensor) -> Tensor:
        return all_pairs(z, **options)[first, second].nan_to_num()

    def pair_form(z: Tensor) -> Tensor:
        return one_pair(z[first], z[second], **options).nan_to_num()

    got, (gradient,) = with_gradients(matrix_form, outputs)
    expected, (wanted,) = with_gradients(pair_form, outputs)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    tolerance = 1e-4 * wanted.abs().max().item() + 1e-7
    torch.testing.assert_close(gradient, wanted, atol=tolerance, rtol=0)
