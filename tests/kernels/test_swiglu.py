"""SwiGLU's product by its formula, values and gradients, in every layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.kernels import swiglu as module
from simsmoe_cli.kernels.swiglu import swiglu


def formula(inner: Tensor) -> Tensor:
    gate, up = inner.chunk(2, dim=-1)
    return F.silu(gate) * up


@pytest.mark.parametrize("shape", [(12,), (7, 12), (2, 5, 12), (0, 12)])
@pytest.mark.parametrize("at_a_time", [1, 24, 36, 10**6])
def test_values_and_gradients(
    shape: tuple[int, ...], at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ELEMENTS_AT_A_TIME", at_a_time)
    inner = (3 * torch.randn(shape)).requires_grad_()
    cotangent = torch.randn(*shape[:-1], shape[-1] // 2)
    ours, expected = swiglu(inner), formula(inner)
    torch.testing.assert_close(ours, expected)
    (d_ours,) = torch.autograd.grad(ours, inner, cotangent)
    (d_expected,) = torch.autograd.grad(expected, inner, cotangent)
    torch.testing.assert_close(d_ours, d_expected)


def test_layouts_that_are_not_contiguous() -> None:
    inner = torch.randn(2, 12, 7).transpose(1, 2).requires_grad_()
    cotangent = torch.randn(2, 6, 7).transpose(1, 2)
    (d_ours,) = torch.autograd.grad(swiglu(inner), inner, cotangent)
    (d_expected,) = torch.autograd.grad(formula(inner), inner, cotangent)
    torch.testing.assert_close(d_ours, d_expected)


def test_gradients_by_differences() -> None:
    inner = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(swiglu, inner)


def test_bf16_rounds_as_the_formula_does() -> None:
    inner = torch.randn(64, 32).bfloat16().requires_grad_()
    ours, expected = swiglu(inner), formula(inner)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    cotangent = torch.randn(64, 16).bfloat16()
    (d_ours,) = torch.autograd.grad(ours, inner, cotangent)
    (d_expected,) = torch.autograd.grad(expected, inner, cotangent)
    torch.testing.assert_close(d_ours, d_expected, rtol=0, atol=0)


def test_compiled_it_is_the_same() -> None:
    inner = torch.randn(5, 8)
    compiled = torch.compile(swiglu, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(inner), formula(inner))
