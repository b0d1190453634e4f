"""CKA measures against float64 definitions, and the properties anyone may rely on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simsmoe_cli.similarity.cka import (
    debiased_linear_cka,
    linear_cka,
    pairwise_debiased_cka,
    rbf_cka,
)

Measure = Callable[..., Tensor]
MEASURES: dict[str, Measure] = {
    "linear": linear_cka,
    "debiased": debiased_linear_cka,
    "rbf": lambda x, y, mask=None: rbf_cka(x, y, mask, sigma=2.0),
    "rbf-median": lambda x, y, mask=None: rbf_cka(x, y, mask, sigma="median"),
}
LINEAR = ["linear", "debiased"]
SCALE_FREE = [*LINEAR, "rbf-median"]

every_measure = pytest.mark.parametrize("name", MEASURES)
examples = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
rows = st.integers(8, 80)
widths = st.integers(1, 40)


def make(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def related(seed: int, n: int, d1: int, d2: int) -> tuple[Tensor, Tensor]:
    """Two outputs that have something in common, with columns of unequal scale and mean."""
    x, noise, mix = make(seed, n, d1), make(seed + 1, n, d2), make(seed + 2, d1, d2)
    return x * (0.2 + make(seed + 3, d1).abs()) + 1.0, torch.relu(x @ mix) + noise


# --- independent float64 definitions -----------------------------------------------------------


def kernel(x: Tensor, name: str) -> Tensor:
    """Kernel matrix from explicit differences of rows."""
    if name in LINEAR:
        return x @ x.T
    squares = (x[:, None] - x[None]).square().sum(-1)
    n = len(x)
    if name == "rbf":
        return torch.exp(-squares / (2 * 2.0**2))
    pairs = squares.detach()[torch.triu(torch.ones(n, n), 1).bool()].sqrt()
    return torch.exp(-squares / (2 * pairs.median() ** 2))


def hsic_biased(k: Tensor, m: Tensor) -> Tensor:
    n = len(k)
    h = torch.eye(n, dtype=k.dtype) - torch.ones(n, n, dtype=k.dtype) / n
    return torch.trace(k @ h @ m @ h) / (n - 1) ** 2


def hsic_unbiased(k: Tensor, m: Tensor) -> Tensor:
    """HSIC_1 as in Song et al. 2012, equation 5: kernels with their diagonals removed."""
    n = len(k)
    k, m = k - k.diag().diag(), m - m.diag().diag()
    one = torch.ones(n, dtype=k.dtype)
    first = torch.trace(k @ m)
    second = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    third = 2 / (n - 2) * (one @ k @ m @ one)
    return (first + second - third) / (n * (n - 3))


def oracle(x: Tensor, y: Tensor, name: str) -> Tensor:
    k, m = kernel(x, name), kernel(y, name)
    hsic = hsic_unbiased if name == "debiased" else hsic_biased
    return hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt()


def with_gradients(measure: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    inputs = tuple(each.detach().requires_grad_() for each in inputs)
    value = measure(*inputs)
    return value.detach(), list(torch.autograd.grad(value.sum(), inputs))


@every_measure
@examples
@given(seed=seeds, n=rows, d1=widths, d2=widths)
def test_value_and_gradient_follow_the_definition(
    name: str, seed: int, n: int, d1: int, d2: int
) -> None:
    x, y = related(seed, n, d1, d2)
    value, gradients = with_gradients(MEASURES[name], x, y)
    expected, expected_gradients = with_gradients(
        lambda a, b: oracle(a, b, name), x.double(), y.double()
    )
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, atol=1e-5, rtol=1e-5)
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        tolerance = 1e-4 * wanted.abs().max().item() + 1e-7
        torch.testing.assert_close(got.double(), wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("n", [40, 300])
def test_a_large_offset_does_not_cancel_the_digits(name: str, n: int) -> None:
    x, y = related(3, n, 64, 64)
    x, y = x + 500, y * 300 - 4000
    centred = (each.double() - each.double().mean(0) for each in (x, y))
    expected = oracle(*centred, name).float()
    torch.testing.assert_close(MEASURES[name](x, y), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 0.3, 1.0])
def test_gaussian_kernels_from_near_to_far_apart_rows(scale: float) -> None:
    x, y = (scale * each for each in related(0, 64, 16, 16))
    value, gradients = with_gradients(MEASURES["rbf"], x, y)
    expected, wanted = with_gradients(lambda a, b: oracle(a, b, "rbf"), x.double(), y.double())
    torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=0)
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got.double(), want, atol=1e-3 * want.abs().max().item(), rtol=0)


# --- properties --------------------------------------------------------------------------------


@every_measure
@examples
@given(seed=seeds, n=rows, d=widths)
def test_an_expert_is_identical_to_itself(name: str, seed: int, n: int, d: int) -> None:
    x, _ = related(seed, n, d, 1)
    assert MEASURES[name](x, x).item() == pytest.approx(1, abs=1e-5)


@every_measure
@examples
@given(seed=seeds, n=rows, d1=widths, d2=widths)
def test_symmetric(name: str, seed: int, n: int, d1: int, d2: int) -> None:
    x, y = related(seed, n, d1, d2)
    measure = MEASURES[name]
    assert measure(x, y).item() == pytest.approx(measure(y, x).item(), abs=1e-5)


@every_measure
@examples
@given(seed=seeds, n=rows, d1=widths, d2=widths)
def test_rotation_and_shift_change_nothing(name: str, seed: int, n: int, d1: int, d2: int) -> None:
    x, y = related(seed, n, d1, d2)
    rotation = torch.linalg.qr(make(seed + 9, d1, d1)).Q
    measure = MEASURES[name]
    assert measure(x @ rotation + 3, y).item() == pytest.approx(measure(x, y).item(), abs=2e-5)


@pytest.mark.parametrize("name", SCALE_FREE)
@examples
@given(seed=seeds, n=rows, d1=widths, d2=widths, exponent=st.integers(-9, 18))
def test_isotropic_scale_changes_nothing(
    name: str, seed: int, n: int, d1: int, d2: int, exponent: int
) -> None:
    x, y = related(seed, n, d1, d2)
    measure = MEASURES[name]
    scaled = measure(x * 10.0**exponent, y)
    assert scaled.item() == pytest.approx(measure(x, y).item(), abs=1e-5)


@pytest.mark.parametrize("n", [32, 128, 512, 2048])
@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=seeds, d=st.sampled_from([16, 64, 256]))
def test_debiased_is_near_zero_for_unrelated_experts(n: int, seed: int, d: int) -> None:
    """For independent Gaussian rows its mean is 0 and its standard error sqrt(2)/n at any d.

    No value, nor the mean of eight, strays six of them; every biased value does.
    """
    x, y = make(seed, 8, n, d), make(seed + 1, 8, n, d)
    values, error = debiased_linear_cka(x, y), 2**0.5 / n
    assert values.abs().max() < 6 * error
    assert values.mean().abs() < 6 * error / 8**0.5
    assert linear_cka(x, y).min() > 6 * error


# --- undefined, never infinite -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "least"), [("linear", 3), ("debiased", 4), ("rbf", 3), ("rbf-median", 3)]
)
def test_undefined_below_the_least_number_of_rows(name: str, least: int) -> None:
    x, y = related(0, 12, 6, 6)
    measure = MEASURES[name]
    assert not measure(x[:least], y[:least]).isnan()
    for n in range(1, least):
        assert measure(x[:n], y[:n]).isnan()
        mask = torch.arange(12) < n
        assert measure(x, y, mask).isnan()
    assert measure(x, y, torch.zeros(12, dtype=torch.bool)).isnan()


@every_measure
@examples
@given(seed=seeds, n=rows, d=widths, value=st.floats(-1e6, 1e6, width=32))
def test_undefined_for_a_constant_expert(
    name: str, seed: int, n: int, d: int, value: float
) -> None:
    _, y = related(seed, n, 1, d)
    constant = (value * (1 + make(seed, d))).expand(n, d)
    for pair in ((constant, y), (y, constant), (constant, constant)):
        result, gradients = with_gradients(MEASURES[name], *pair)
        assert result.isnan()
        assert all((gradient == 0).all() for gradient in gradients)


def test_debiased_is_undefined_when_all_rows_but_one_are_equal() -> None:
    x = torch.zeros(20, 5)
    x[3] = 7.0
    assert debiased_linear_cka(x, make(0, 20, 5)).isnan()


def special_rows(kind: str) -> tuple[Tensor, Tensor]:
    x, y = related(1, 40, 12, 12)
    if kind == "identical":
        return x, x.clone()
    if kind == "repeated rows":
        return x[torch.arange(40) % 3], y[torch.arange(40) % 3]
    if kind == "zeros":
        return torch.zeros_like(x), y
    if kind == "half zeros":
        return torch.where(torch.arange(40)[:, None] < 20, x, 0.0), y
    if kind == "one outlier":
        return torch.where(torch.arange(40)[:, None] == 7, 1e6 * x, x), y
    return x * float(kind), y * float(kind)


@every_measure
@pytest.mark.parametrize(
    "kind",
    [
        *("identical", "repeated rows", "zeros", "half zeros", "one outlier"),
        *("1e-38", "1e-20", "1e-10", "1e-5", "1e5", "1e10", "1e20", "1e37"),
    ],
)
def test_gradients_are_finite(name: str, kind: str) -> None:
    value, gradients = with_gradients(MEASURES[name], *special_rows(kind))
    assert value.isnan() or -1 <= value <= 1 + 1e-5
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_measure
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_broken_outputs_are_undefined_and_have_no_gradient(name: str, bad: float) -> None:
    x, y = related(1, 40, 12, 12)
    x[5, 3] = bad
    value, gradients = with_gradients(MEASURES[name], x, y)
    assert value.isnan()
    assert all((gradient == 0).all() for gradient in gradients)
    inside = torch.arange(40) != 5
    masked, gradients = with_gradients(lambda a, b: MEASURES[name](a, b, inside), x, y)
    assert masked.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


# --- batches -----------------------------------------------------------------------------------


@every_measure
@examples
@given(seed=seeds, n=st.integers(4, 40), d1=widths, d2=widths, data=st.data())
def test_masked_batch_equals_a_loop_over_the_rows_inside(
    name: str, seed: int, n: int, d1: int, d2: int, data: st.DataObject
) -> None:
    pairs = 5
    x, y = make(seed, pairs, n, d1), make(seed + 1, pairs, n, d2)
    counts = data.draw(st.lists(st.integers(0, n), min_size=pairs, max_size=pairs))
    order = torch.rand(pairs, n, generator=torch.Generator().manual_seed(seed)).argsort(1)
    mask = order < torch.tensor(counts)[:, None]

    measure = MEASURES[name]
    values, gradients = with_gradients(lambda a, b: measure(a, b, mask).nan_to_num(), x, y)
    for p in range(pairs):
        inside = mask[p]
        if not inside.any():
            assert values[p] == 0
            continue
        value, wanted = with_gradients(
            lambda a, b: measure(a, b).nan_to_num(), x[p, inside], y[p, inside]
        )
        # Of few rows the debiased terms nearly cancel, and the order of sums is seen.
        close = 1e-5 if inside.sum() >= 8 else 1e-3
        torch.testing.assert_close(values[p], value, atol=close, rtol=close)
        for got, want in zip(gradients, wanted, strict=True):
            tolerance = 1e-3 * want.abs().max().item() + 2e-5
            torch.testing.assert_close(got[p, inside], want, atol=tolerance, rtol=0)
            assert (got[p, ~inside] == 0).all()


@every_measure
def test_low_precision_outputs_are_measured_in_fp32(name: str) -> None:
    x, y = (each.bfloat16() for each in related(2, 64, 24, 24))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = MEASURES[name](x, y)
    assert value.dtype == torch.float32
    expected = oracle(x.double(), y.double(), name).float()
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("experts", "tokens", "width"),
    [(5, 40, 24), (5, 300, 6), (2, 4, 3), (1, 50, 8), (24, 300, 96), (80, 200, 40)],
)
def test_pairwise_equals_a_loop(
    experts: int, tokens: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = make(0, experts, tokens, width) + 2 * make(1, 1, tokens, width) + 5
    expected = torch.stack(
        [
            torch.stack([oracle(a, b, "debiased") for b in outputs[:4].double()])
            for a in outputs[:4].double()
        ]
    )
    for chunk in (2**23, 5000):
        monkeypatch.setattr("simsmoe_cli.similarity.cka._CHUNK", chunk)
        got = pairwise_debiased_cka(outputs)
        torch.testing.assert_close(got[:4, :4].double(), expected, atol=2e-5, rtol=0)
        assert torch.equal(got, got.T)
        assert (got.diagonal() == 1).all()


def test_pairwise_reports_undefined_experts() -> None:
    outputs = make(0, 4, 30, 8)
    outputs[2] = 3.0
    got = pairwise_debiased_cka(outputs)
    undefined = torch.zeros(4, 4, dtype=torch.bool)
    undefined[2] = undefined[:, 2] = True
    assert torch.equal(got.isnan(), undefined)
    assert pairwise_debiased_cka(outputs[:, :3]).isnan().all()
