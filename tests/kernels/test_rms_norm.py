"""RMSNorm by its formula, and by torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from simsmoe_cli.kernels.rms_norm import RMSNorm


def norm_of(width: int, eps: float = 1e-5) -> RMSNorm:
    norm = RMSNorm(width, eps=eps)
    torch.nn.init.normal_(norm.weight)
    return norm


@pytest.mark.parametrize("shape", [(12,), (3, 12), (2, 5, 12), (0, 12)])
def test_it_is_the_formula(shape: tuple[int, ...]) -> None:
    norm, x = norm_of(12, eps=0.1), torch.randn(shape)
    expected = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


def grads(norm: RMSNorm, x: Tensor, cotangent: Tensor, *, own: bool) -> tuple[Tensor, ...]:
    x = x.detach().requires_grad_()
    out = norm(x) if own else torch.nn.RMSNorm.forward(norm, x)
    return (out, *torch.autograd.grad(out, (x, norm.weight), cotangent))


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
@pytest.mark.parametrize("strided", [False, True])
def test_values_and_gradients_are_those_of_torch(scale: float, strided: bool) -> None:
    norm = norm_of(16)
    x, cotangent = scale * torch.randn(2, 16, 7), torch.randn(2, 16, 7)
    x, cotangent = x.transpose(1, 2), cotangent.transpose(1, 2)
    if not strided:
        x, cotangent = x.contiguous(), cotangent.contiguous()
    ours, theirs = (grads(norm, x, cotangent, own=own) for own in (True, False))
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5 * their.abs().max().item())


def test_gradients_by_differences() -> None:
    norm = norm_of(6).double()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: _with(norm, w, x), (x, norm.weight))


def _with(norm: RMSNorm, weight: Tensor, x: Tensor) -> Tensor:
    return torch.func.functional_call(norm, {"weight": weight}, (x,))


def test_rows_of_zeros_stay_finite() -> None:
    norm = norm_of(8)
    out, d_x, d_weight = grads(norm, torch.zeros(3, 8), torch.ones(3, 8), own=True)
    assert out.abs().max() == 0
    assert d_x.isfinite().all()
    assert d_weight.abs().max() == 0


def test_other_precisions_go_on_as_in_torch() -> None:
    norm, x = norm_of(8).bfloat16(), torch.randn(3, 8, dtype=torch.bfloat16)
    assert torch.equal(norm(x), torch.nn.RMSNorm.forward(norm, x))
