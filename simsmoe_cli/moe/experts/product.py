"""Rows times the matrix of the expert each belongs to, for every precision, compiled or not.

torch's grouped_mm computes in fp32 as well, but what torch.compile traces with knows it for bf16
alone. Compiled, other precisions go through an operator that hides it, with its gradients written
out: d rows = d out W, d W = rows^T d out, both grouped products again.

Shapes: R rows, I inner width of the product, O its outer width, N experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


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
    return F.grouped_mm(rows_RI, weight_NOI.transpose(-2, -1), offs=offset_N)


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
