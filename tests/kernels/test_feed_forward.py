"""Experts some rows at a time compute their formula, values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from simsmoe_cli.kernels import feed_forward as module
from simsmoe_cli.kernels.dropout import draw_kept
from simsmoe_cli.kernels.feed_forward import feed_forward

WIDTH, HIDDEN = 6, 8
COUNTS = [[5, 0, 3, 9], [0, 0, 0, 0], [23], [0, 1, 0]]


def formula(
    rows_RD: Tensor,
    w_in: Tensor,
    b_in: Tensor | None,
    w_out: Tensor,
    b_out: Tensor | None,
    count_N: list[int],
    factor_RH: Tensor,
) -> Tensor:
    parts = []
    for expert, rows in enumerate(rows_RD[: sum(count_N)].split(count_N)):
        inner = rows @ w_in[expert].T
        if b_in is not None:
            inner = inner + b_in[expert]
        hidden = inner.relu()
        parts.append(hidden)
    whole = torch.cat(parts) * factor_RH
    out = []
    for expert, hidden in enumerate(whole.split(count_N)):
        own = hidden @ w_out[expert].T
        out.append(own if b_out is None else own + b_out[expert])
    return torch.cat([*out, rows_RD[sum(count_N) :] * 0])


def made(counts: list[int], bias: bool, spare: int) -> list[Tensor | None]:
    torch.manual_seed(0)
    experts = len(counts)
    shapes = [
        (experts, HIDDEN, WIDTH),
        (experts, HIDDEN),
        (experts, WIDTH, HIDDEN),
        (experts, WIDTH),
    ]
    weights: list[Tensor | None] = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    ]
    if not bias:
        weights[1] = weights[3] = None
    rows = torch.randn(sum(counts) + spare, WIDTH, dtype=torch.float64, requires_grad=True)
    return [rows, *weights]


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    ("at_a_time", "spare", "bias"), [(1, 2, True), (64, 0, False), (96, 3, True)]
)
def test_values_and_gradients(
    counts: list[int],
    dropout: float,
    at_a_time: int,
    spare: int,
    bias: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same mask forward and backward, however many rows are computed at a time."""
    monkeypatch.setattr(module, "ELEMENTS_AT_A_TIME", at_a_time)
    given: Any = made(counts, bias, spare)
    leaves = [tensor for tensor in given if tensor is not None]
    torch.manual_seed(3)
    ours = feed_forward(*given, counts, dropout)
    torch.manual_seed(3)
    factor: Any = torch.ones(sum(counts), HIDDEN)
    if dropout:
        factor, scale = draw_kept((sum(counts), HIDDEN), dropout)
        factor = factor * scale
    expected = formula(*given, counts, factor)
    torch.testing.assert_close(ours, expected)
    cotangent = torch.randn_like(expected)
    d_ours = torch.autograd.grad(ours, leaves, cotangent)
    d_expected = torch.autograd.grad(expected, leaves, cotangent)
    torch.testing.assert_close(d_ours, d_expected)


def test_only_what_learns_gets_a_gradient() -> None:
    given: Any = made([4, 2], True, 0)
    wanted = list(given)
    expected = torch.autograd.grad(feed_forward(*given, [4, 2], 0.0).sum(), wanted)
    for number in range(len(given)):
        alone = [tensor.detach() for tensor in given]
        alone[number] = given[number]
        out = feed_forward(*alone, [4, 2], 0.0)
        torch.testing.assert_close(
            torch.autograd.grad(out.sum(), [alone[number]]), (expected[number],)
        )


def test_values_do_not_depend_on_gradients() -> None:
    given: Any = made([4, 2], True, 1)
    learning = feed_forward(*given, [4, 2], 0.0)
    with torch.no_grad():
        assert torch.equal(feed_forward(*given, [4, 2], 0.0), learning)


def test_rows_in_any_layout() -> None:
    rows, *weights = made([4, 2], True, 0)
    assert rows is not None
    turned = rows.detach().T.contiguous().T.requires_grad_()
    args: Any = (*weights, [4, 2], 0.0)
    ours, expected = feed_forward(turned, *args), feed_forward(rows, *args)
    torch.testing.assert_close(ours, expected)
    cotangent = torch.randn(WIDTH, 6, dtype=torch.float64).T
    torch.testing.assert_close(
        torch.autograd.grad(ours, turned, cotangent), torch.autograd.grad(expected, rows, cotangent)
    )
