"""SwiGLU's product silu(gate) * up (Shazeer 2002.05202), gate and up side by side in one tensor.

Replaces F.silu(gate) * up, which is its oracle in tests/kernels/test_swiglu.py. With torch's
operations, the gradient is computed in two halves that are then copied together, and silu(gate) is
kept for the backward pass. Here both halves are written directly into the result, silu is computed
again, and a CPU works on a few rows at a time, so that temporary tensors stay in cache.
torch.compile fuses the plain formula by itself.

Shapes: R rows, all leading dimensions together; H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.kernels.cpu import on_cpu_path

ELEMENTS_AT_A_TIME = 2**19


def swiglu(inner: Tensor) -> Tensor:
    """silu(gate) * up: [..., 2H] -> [..., H]."""
    if torch.compiler.is_compiling():
        gate, up = inner.chunk(2, dim=-1)
        return F.silu(gate) * up
    return _swiglu(inner)


class _SwiGLU(torch.autograd.Function):
    """With s = silu(gate): d gate = silu'(gate) g up, d up = g s."""

    @staticmethod
    def forward(ctx: Any, inner: Tensor) -> Tensor:
        ctx.save_for_backward(inner)
        out = inner.new_empty(*inner.shape[:-1], inner.shape[-1] // 2)
        for part, hidden in _rows(inner, out):
            gate, up = part.chunk(2, dim=-1)
            torch.mul(F.silu(gate), up, out=hidden)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (inner,) = ctx.saved_tensors
        out = torch.empty_like(inner, memory_format=torch.contiguous_format)
        for part, d_hidden, d_part in _rows(inner, grad, out):
            gate, up = part.chunk(2, dim=-1)
            d_gate, d_up = d_part.chunk(2, dim=-1)
            torch.mul(d_hidden, F.silu(gate), out=d_up)
            torch.ops.aten.silu_backward.grad_input(d_hidden * up, gate, grad_input=d_gate)
        return out


_swiglu: Callable[..., Tensor] = _SwiGLU.apply


def _rows(inner: Tensor, *others: Tensor) -> list[tuple[Tensor, ...]]:
    """The same rows of each tensor, as many at a time as stay in a CPU's cache."""
    flat = [tensor.reshape(-1, tensor.shape[-1]) for tensor in (inner, *others)]
    if not on_cpu_path(inner):
        return [tuple(flat)]
    rows = max(1, ELEMENTS_AT_A_TIME // inner.shape[-1])
    return list(zip(*(tensor.split(rows) for tensor in flat), strict=True))
