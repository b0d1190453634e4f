"""Dropout on a CPU from a mask that is cheap to draw: four elements from every 64 random bits.

Replaces torch.nn.functional.dropout (and, in `relu_dropout`, relu before it), which draws a number
for every element with a slow generator on one thread and keeps a mask as large as its input. The
mask here is one byte an element, and `relu_dropout` needs none: its output is above 0 exactly where
an element is positive and kept. Accelerators and compiled code take the plain functions.
Oracle: the formula in tests/kernels/test_dropout.py.

The probability is rounded to a multiple of 1 / 65,536, and kept elements are divided by the exact
(rounded) probability to be kept, so the expectation of every element is unchanged. The bits come
from numpy's SFC64, whose seed torch's generator of the CPU draws for each mask. A checkpoint holds
the state of that generator.

Elements are multiplied by a mask of numbers, because torch chooses between numbers (where,
masked_fill) ten times as slowly as it multiplies them (LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.kernels.cpu import on_cpu_path

LEVELS = 1 << 16  # of 16 random bits
ELEMENTS_AT_A_TIME = 1 << 17  # as many as stay in a CPU's cache


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Each element is 0 with the probability, else divided by the probability to be kept.

    The identity where nothing is dropped: in evaluation, or at probability 0.
    """
    if not training or not probability:
        return x
    return _dropout(x, probability) if on_cpu_path(x) else F.dropout(x, probability)


def relu_dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """`dropout` of relu(x)."""
    if not training or not probability:
        return F.relu(x)
    return _relu_dropout(x, probability) if on_cpu_path(x) else F.dropout(F.relu(x), probability)


class Mask:
    """Draws one dropout mask, piece after piece.

    The elements are the same however they are divided into pieces, if every piece but the last one
    has a multiple of four.

    Args:
        probability: that an element is dropped, above 0 and below 1; rounded to LEVELS.

    Attributes:
        scale: the factor for kept elements.
    """

    def __init__(self, probability: float):
        dropped = min(max(round(probability * LEVELS), 1), LEVELS - 1)
        self.scale = LEVELS / (LEVELS - dropped)
        self._least = dropped - LEVELS // 2
        self._bits = np.random.SFC64(int(torch.empty((), dtype=torch.int64).random_()))

    def draw(self, count: int) -> Tensor:
        """1 for each element that is kept, else 0: int16, [count]."""
        words = self._bits.random_raw((count + 3) // 4)
        return torch.from_numpy(words.view(np.int16)[:count]).ge_(self._least)


def draw_kept(shape: Sequence[int], probability: float) -> tuple[Tensor, float]:
    """Draw which elements dropout keeps: a mask, uint8, and the factor for kept elements."""
    mask, kept = Mask(probability), torch.empty(tuple(shape), dtype=torch.uint8)
    for part in kept.view(-1).split(ELEMENTS_AT_A_TIME):
        part.copy_(mask.draw(len(part)))
    return kept, mask.scale


def _parts(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The same elements of contiguous tensors, a few at a time."""
    flat = [tensor.view(-1).split(ELEMENTS_AT_A_TIME) for tensor in tensors]
    return list(zip(*flat, strict=True))


def _times_kept(x: Tensor, kept: Tensor, scale: float) -> Tensor:
    """scale * x where kept, else 0."""
    x = x.contiguous()
    out = torch.empty_like(x)
    for x_E, kept_E, out_E in _parts(x, kept, out):
        out_E.copy_(kept_E).mul_(x_E).mul_(scale)
    return out


class _Dropout(torch.autograd.Function):
    """d x = scale * d out where an element was kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float) -> Tensor:
        kept, ctx.scale = draw_kept(x.shape, probability)
        ctx.save_for_backward(kept)
        return _times_kept(x, kept, ctx.scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return _times_kept(grad, kept, ctx.scale), None


class _ReluDropout(torch.autograd.Function):
    """d x = scale * d out where the output is above 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float) -> Tensor:
        x, mask = x.contiguous(), Mask(probability)
        out = torch.empty_like(x)
        for x_E, out_E in _parts(x, out):
            out_E.copy_(mask.draw(len(out_E))).mul_(x_E).relu_().mul_(mask.scale)
        ctx.save_for_backward(out)
        ctx.scale = mask.scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        grad = grad.contiguous()
        d_x = torch.empty_like(grad)
        for grad_E, out_E, d_x_E in _parts(grad, out, d_x):
            torch.ops.aten.threshold_backward.grad_input(grad_E, out_E, 0, grad_input=d_x_E)
            d_x_E.mul_(ctx.scale)
        return d_x, None


_dropout: Callable[..., Tensor] = _Dropout.apply
_relu_dropout: Callable[..., Tensor] = _ReluDropout.apply
