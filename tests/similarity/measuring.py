"""What tests of measures share: made-up outputs of experts, values with gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def make(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def related(seed: int, n: int, d: int, noise: float = 0.7) -> tuple[Tensor, Tensor]:
    """Two outputs that have something in common, with columns of unequal scale and mean."""
    x = make(seed, n, d) * (0.2 + make(seed + 1, d).abs()) + 0.5 * make(seed + 2, d)
    return x, x + noise * make(seed + 3, n, d)


def with_gradients(measure: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Values, and gradients of their sum."""
    inputs = tuple(each.detach().requires_grad_() for each in inputs)
    value = measure(*inputs)
    return value.detach(), list(torch.autograd.grad(value.sum(), inputs))


def assert_follows(
    measure: Callable[..., Tensor], oracle: Callable[..., Tensor], x: Tensor, y: Tensor
) -> None:
    """Value and gradient of a pair equal a float64 definition's."""
    value, gradients = with_gradients(measure, x, y)
    expected, wanted = with_gradients(oracle, x.double(), y.double())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, atol=2e-5, rtol=2e-5)
    for got, want in zip(gradients, wanted, strict=True):
        tolerance = 1e-4 * want.abs().max().item() + 1e-5
        torch.testing.assert_close(got.double(), want, atol=tolerance, rtol=0)
