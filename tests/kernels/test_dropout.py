"""Dropout from a cheap mask keeps the law of dropout: rate, scale, independence, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.kernels import dropout as module
from simsmoe_cli.kernels.cpu import as_on_accelerators
from simsmoe_cli.kernels.dropout import draw_kept, dropout, relu_dropout

RATES = [1e-3, 0.1, 0.25, 0.5, 0.9, 0.999]
both = pytest.mark.parametrize(
    ("ours", "before"),
    [(dropout, lambda x: x), (relu_dropout, F.relu)],
    ids=["dropout", "relu_dropout"],
)


@pytest.mark.parametrize("rate", RATES)
def test_the_rate_is_exact_and_elements_are_independent(rate: float) -> None:
    torch.manual_seed(0)
    kept, scale = draw_kept((1000, 1201), rate)
    share = 1 / scale  # the probability to be kept, rounded to 1 / 65,536
    assert abs(share - (1 - rate)) <= 2**-17
    kept = kept.double()
    deviation = (share * (1 - share) / kept.numel()) ** 0.5
    assert abs(kept.mean().item() - share) < 5 * deviation
    centred = (kept - share).flatten()
    # Neighbours of one 64-bit number, of the next one, and of the next row.
    for distance in (1, 2, 3, 4, 1201):
        product = centred[distance:] * centred[:-distance]
        spread = share * (1 - share) / len(product) ** 0.5
        assert abs(product.mean().item()) < 5 * spread
    by_lane = kept.flatten()[: len(centred) // 4 * 4].view(-1, 4).mean(0)
    assert ((by_lane - share).abs() < 10 * deviation).all()


@pytest.mark.parametrize("rate", [1e-9, 1 - 1e-9])
def test_the_smallest_and_largest_rates_are_one_level_from_none_and_all(rate: float) -> None:
    kept, scale = draw_kept((4,), rate)
    assert kept.shape == (4,)
    assert scale == (65_536 / 65_535 if rate < 0.5 else 65_536)


@both
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("at_a_time", [7, 1 << 17])
def test_values_and_gradients_are_those_of_the_mask(
    ours: Callable[..., Tensor],
    before: Callable[[Tensor], Tensor],
    rate: float,
    at_a_time: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same mask forward and backward, in any layout."""
    monkeypatch.setattr(module, "ELEMENTS_AT_A_TIME", at_a_time)
    x = torch.randn(9, 5, dtype=torch.float64).T.requires_grad_()
    grad = torch.randn(9, 5, dtype=torch.float64).T
    torch.manual_seed(3)
    out = ours(x, rate, True)
    (d_ours,) = torch.autograd.grad(out, x, grad)
    torch.manual_seed(3)
    kept, scale = draw_kept(x.shape, rate)
    expected = before(x) * kept * scale
    (d_expected,) = torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(d_ours, d_expected)


@both
def test_the_mean_of_an_element_is_what_it_was(
    ours: Callable[..., Tensor], before: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    x_D = torch.tensor([2.0, -1.0, 0.0, 3.0])
    out_RD = ours(x_D.expand(200_000, 4).contiguous(), 0.3, True)
    torch.testing.assert_close(out_RD.mean(0), before(x_D), atol=0.03, rtol=0)


@both
@pytest.mark.parametrize(("rate", "training"), [(0.3, False), (0.0, True)])
def test_nothing_is_drawn_where_nothing_is_dropped(
    ours: Callable[..., Tensor], before: Callable[[Tensor], Tensor], rate: float, training: bool
) -> None:
    x, state = torch.randn(7, 5), torch.get_rng_state()
    assert torch.equal(ours(x, rate, training), before(x))
    assert torch.equal(torch.get_rng_state(), state)


@both
def test_the_generators_state_decides_the_mask(
    ours: Callable[..., Tensor], before: Callable[[Tensor], Tensor]
) -> None:
    x, state = torch.rand(50, 21), torch.get_rng_state()
    first, other = ours(x, 0.5, True), ours(x, 0.5, True)
    torch.set_rng_state(state)
    assert torch.equal(ours(x, 0.5, True), first)
    assert not torch.equal(other, first)


@both
def test_accelerators_take_the_plain_functions(
    ours: Callable[..., Tensor], before: Callable[[Tensor], Tensor]
) -> None:
    x = torch.randn(50, 21)
    results: list[Any] = []
    for plain in (True, False):
        torch.manual_seed(4)
        with as_on_accelerators():
            results.append(F.dropout(before(x), 0.4) if plain else ours(x, 0.4, True))
    assert torch.equal(*results)


@both
@pytest.mark.parametrize("shape", [(0,), (0, 5), (3,)])
def test_any_number_of_elements_in_any_precision(
    ours: Callable[..., Tensor], before: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    for kind in (torch.bfloat16, torch.float32, torch.float64):
        x = torch.rand(shape, dtype=kind, requires_grad=True)
        out = ours(x, 0.5, True)
        out.sum().backward()
        assert (out.shape, out.dtype) == (x.shape, kind)
        assert x.grad is not None
        assert x.grad.dtype == kind
