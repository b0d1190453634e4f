"""Rows times the matrix of their expert, in every precision, compiled or not.

Replaces torch.nn.functional.grouped_mm where that fails or is slow; one product for each expert is
its oracle in tests/kernels/test_grouped_product.py.

- grouped_mm computes in fp32, but its fake version, which torch.compile traces with, accepts bf16
  only. So in compiled code other precisions go through an operator that hides it, with its
  gradients written out: d rows = d out W, d W = rows^T d out, both grouped products again.
- On a CPU, bf16 products run code that is generated for each shape and then kept, and generating
  it takes longer than the product. Loads of experts change in every step, so the number of rows of
  each product is rounded to one of a few.

Shapes: R rows, I inner width of the product, O its outer width, N experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.kernels.cpu import on_cpu_path


def grouped_product(rows_RI: Tensor, weight_NOI: Tensor, offset_N: Tensor) -> Tensor:
    """rows of expert n times its weight transposed, [R, O].

    Args:
        rows_RI: sorted by expert.
        weight_NOI: in the rows' precision.
        offset_N: one past the last row of each expert, int32.
    """
    if torch.compiler.is_compiling() and rows_RI.dtype != torch.bfloat16:
        out: Tensor = _opaque(rows_RI, weight_NOI, offset_N)
        return out
    if rows_RI.dtype == torch.bfloat16 and on_cpu_path(rows_RI):
        return _in_few_shapes(rows_RI, weight_NOI, offset_N)
    return F.grouped_mm(rows_RI, weight_NOI.transpose(-2, -1), offs=offset_N)


class _InFewShapes(torch.autograd.Function):
    """One product per expert that has rows, each of a rounded number of rows."""

    @staticmethod
    def forward(ctx: Any, rows_RI: Tensor, weight_NOI: Tensor, offset_N: Tensor) -> Tensor:
        ctx.ends = offset_N.tolist()
        ctx.save_for_backward(rows_RI, weight_NOI)
        return _products(rows_RI, weight_NOI.transpose(-2, -1), ctx.ends)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_RO: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows_RI, weight_NOI = ctx.saved_tensors
        d_rows = d_weight = None
        if ctx.needs_input_grad[0]:
            d_rows = _products(grad_RO, weight_NOI, ctx.ends)
        if ctx.needs_input_grad[1]:
            d_weight = torch.zeros_like(weight_NOI)
            for expert, (start, end) in _groups(ctx.ends):
                whole = start + _rounded_down(end - start)
                out = d_weight[expert]
                torch.mm(grad_RO[start:whole].T, rows_RI[start:whole], out=out)
                if end > whole:
                    grad, rows = (_with_zeros(x[whole:end]) for x in (grad_RO, rows_RI))
                    out.addmm_(grad.T, rows)
        return d_rows, d_weight, None


_in_few_shapes: Callable[..., Tensor] = _InFewShapes.apply


def _products(rows_RI: Tensor, weight_NIO: Tensor, ends: list[int]) -> Tensor:
    """Each row times its expert's matrix; zeros after the last expert's rows."""
    rows = rows_RI.shape[0]
    out = rows_RI.new_empty(rows, weight_NIO.shape[2])
    for expert, (start, end) in _groups(ends):
        stop = start + _rounded_up(end - start)
        if stop <= rows:
            # The padded product overruns into the next expert's rows, which are overwritten next.
            torch.mm(rows_RI[start:stop], weight_NIO[expert], out=out[start:stop])
        else:
            out[start:end] = (_with_zeros(rows_RI[start:end]) @ weight_NIO[expert])[: end - start]
    out[ends[-1] :] = 0
    return out


def _groups(ends: list[int]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Each expert that has rows, and where they start and end."""
    for expert, bounds in enumerate(zip([0, *ends], ends, strict=False)):
        if bounds[0] < bounds[1]:
            yield expert, bounds


def _with_zeros(rows_XI: Tensor) -> Tensor:
    rows = rows_XI.shape[0]
    return F.pad(rows_XI, (0, 0, 0, _rounded_up(rows) - rows))


def _rounded_up(rows: int) -> int:
    return -(-rows // _step(rows)) * _step(rows)


def _rounded_down(rows: int) -> int:
    return rows // _step(rows) * _step(rows)


def _step(rows: int) -> int:
    """A sixteenth of the power of two below, at least 32."""
    return 1 << max(rows.bit_length() - 5, 5)


@torch.library.custom_op("simsmoe::grouped_product", mutates_args=())
def _opaque(rows_RI: Tensor, weight_NOI: Tensor, offset_N: Tensor) -> Tensor:
    return F.grouped_mm(rows_RI, weight_NOI.transpose(-2, -1), offs=offset_N)


@_opaque.register_fake
def _(rows_RI: Tensor, weight_NOI: Tensor, offset_N: Tensor) -> Tensor:
    return rows_RI.new_empty(rows_RI.shape[0], weight_NOI.shape[1])


@torch.library.custom_op("simsmoe::grouped_product_backward", mutates_args=())
def _gradients(
    grad_RO: Tensor, rows_RI: Tensor, weight_NOI: Tensor, offset_N: Tensor
) -> tuple[Tensor, Tensor]:
    grad_RO = grad_RO.contiguous()
    rows = F.grouped_mm(grad_RO, weight_NOI, offs=offset_N)
    return rows, F.grouped_mm(grad_RO.T, rows_RI, offs=offset_N)


@_gradients.register_fake
def _(
    grad_RO: Tensor, rows_RI: Tensor, weight_NOI: Tensor, offset_N: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rows_RI), torch.empty_like(weight_NOI)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_RO: Tensor) -> tuple[Tensor, Tensor, None]:
    rows, weight = _gradients(grad_RO, *ctx.saved_tensors)
    return rows, weight, None


_opaque.register_autograd(_backward, setup_context=_remember)
