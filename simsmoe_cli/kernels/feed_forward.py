"""Experts on a CPU, some rows at a time, so that what is between their two products stays in cache.

W2 relu(W1 x + b1) + b2 for rows sorted by expert, with dropout after relu. Replaces two grouped
products with biases, relu and dropout between them, each of which reads and writes all hidden
values; a dense feed-forward layer is one expert. The oracle is the formula, expert by expert, in
tests/kernels/test_feed_forward.py. Accelerators and compiled code take the separate operations, and
so do bf16 (kernels/grouped_product.py says why) and SwiGLU, which gains nothing by this (LOG.md).

Of the hidden values only those after relu and dropout are kept for the backward pass: a gradient
flows where they are positive. Kept elements are divided by the probability to be kept inside the
product that follows.

Shapes: R rows, D model width, H hidden width, N experts, P rows of a piece.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.kernels.cpu import on_cpu_path
from simsmoe_cli.kernels.dropout import Mask

# Hidden values of a piece: as many as stay in a CPU's cache, in rows enough for a fast product.
ELEMENTS_AT_A_TIME = 1 << 18


def suits(rows: Tensor, dtype: torch.dtype) -> bool:
    """Whether `feed_forward` is the way to compute rows in this precision."""
    return on_cpu_path(rows) and dtype in (torch.float32, torch.float64)


def feed_forward(
    rows_RD: Tensor,
    w_in_NHD: Tensor,
    b_in_NH: Tensor | None,
    w_out_NDH: Tensor,
    b_out_ND: Tensor | None,
    count_N: Sequence[int],
    dropout: float,
) -> Tensor:
    """Each row through the expert it belongs to.

    Args:
        rows_RD: sorted by expert.
        w_in_NHD, b_in_NH, w_out_NDH, b_out_ND: the experts.
        count_N: rows of each expert; rows after the last expert's give zeros.
        dropout: probability that a hidden value is dropped.

    Returns:
        [R, D].
    """
    return _feed_forward(rows_RD, w_in_NHD, b_in_NH, w_out_NDH, b_out_ND, count_N, dropout)


Piece = list[tuple[int, int]]


def _pieces(count_N: Sequence[int], most: int) -> list[Piece]:
    """All rows of all experts, at most so many at a time: for each piece its experts in turn, and
    how many of their rows it has."""
    pieces: list[Piece] = []
    room = 0
    for expert, count in enumerate(count_N):
        while count:
            if not room:
                pieces.append([])
                room = most
            rows = min(count, room)
            pieces[-1].append((expert, rows))
            count, room = count - rows, room - rows
    return pieces


def _parts(x_RX: Tensor, pieces: list[Piece]) -> Iterator[tuple[Tensor, ...]]:
    """For each piece its rows of x, expert by expert. One split of all rows is much faster than
    many slices."""
    parts = iter(x_RX.split([rows for piece in pieces for _, rows in piece]))
    for piece in pieces:
        yield tuple(itertools.islice(parts, len(piece)))


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows_RD: Tensor,
        w_in: Tensor,
        b_in: Tensor | None,
        w_out: Tensor,
        b_out: Tensor | None,
        count_N: Sequence[int],
        dropout: float,
    ) -> Tensor:
        width = w_in.shape[1]
        most = max(1, ELEMENTS_AT_A_TIME // width)
        total, learning = sum(count_N), any(ctx.needs_input_grad)
        mask = Mask(dropout) if dropout else None
        scale = 1.0 if mask is None else mask.scale
        hidden_RH = rows_RD.new_empty(total if learning else min(most, total), width)
        kept_PH = rows_RD.new_empty(min(most, total) if dropout else 0, width)
        out_RD = torch.empty_like(rows_RD, memory_format=torch.contiguous_format)
        out_RD[total:] = 0
        w_out_NHD = w_out.mT.contiguous().unbind()  # A product with such is faster.
        w_in_NDH = w_in.mT.unbind()
        pieces = _pieces(count_N, most)
        each = zip(
            pieces, _parts(rows_RD[:total], pieces), _parts(out_RD[:total], pieces), strict=True
        )
        start = 0
        for piece, rows_of, out_of in each:
            size = sum(rows for _, rows in piece)
            hidden = hidden_RH[start : start + size]
            start += size if learning else 0
            groups = list(zip(piece, rows_of, out_of, *_parts(hidden, [piece]), strict=True))
            for (expert, _), rows, _, own in groups:
                torch.mm(rows, w_in_NDH[expert], out=own)
                if b_in is not None:
                    own.add_(b_in[expert])
            hidden.relu_()
            if mask is not None:
                kept = kept_PH[:size]
                kept.view(-1).copy_(mask.draw(kept.numel()))
                hidden.mul_(kept)
            for (expert, _), _, out, own in groups:
                _product(out, own, w_out_NHD[expert], scale)
                if b_out is not None:
                    out.add_(b_out[expert])
        if learning:
            ctx.save_for_backward(rows_RD, w_in, w_out, hidden_RH)
            ctx.count_N, ctx.most, ctx.scale = count_N, most, scale
        return out_RD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor | None, ...]:
        rows_RD, w_in, w_out, hidden_RH = ctx.saved_tensors
        grad_RD, scale, total = grad_RD.contiguous(), ctx.scale, hidden_RH.shape[0]
        needs_rows, needs_in, needs_b_in, needs_out, needs_b_out = ctx.needs_input_grad[:5]
        d_rows = torch.empty_like(rows_RD) if needs_rows else None
        if d_rows is not None:
            d_rows[total:] = 0
        d_in = torch.zeros_like(w_in) if needs_in else None
        d_out = torch.zeros_like(w_out) if needs_out else None
        d_b_in = w_in.new_zeros(w_in.shape[:2]) if needs_b_in else None
        d_b_out = w_out.new_zeros(w_out.shape[:2]) if needs_b_out else None
        d_hidden_PH = rows_RD.new_empty(min(ctx.most, total), w_in.shape[1])
        pieces = _pieces(ctx.count_N, ctx.most)
        of_rows = [_parts(x_RX[:total], pieces) for x_RX in (rows_RD, grad_RD, hidden_RH)]
        d_rows_of: Iterable[tuple[Tensor, ...]] = [()] * len(pieces)
        if d_rows is not None:
            d_rows_of = _parts(d_rows[:total], pieces)
        start = 0
        each = zip(pieces, *of_rows, d_rows_of, strict=True)
        for piece, parts, grads, hiddens, d_parts in each:
            size = sum(rows for _, rows in piece)
            hidden, d_hidden = hidden_RH[start : start + size], d_hidden_PH[:size]
            start += size
            (d_hiddens,) = _parts(d_hidden, [piece])
            for (expert, _), grad, d_own in zip(piece, grads, d_hiddens, strict=True):
                _product(d_own, grad, w_out[expert], scale)
            torch.ops.aten.threshold_backward.grad_input(d_hidden, hidden, 0, grad_input=d_hidden)
            groups = zip(piece, parts, grads, hiddens, d_hiddens, strict=True)
            for (expert, _), rows, grad, own, d_own in groups:
                if d_out is not None:
                    d_out[expert].addmm_(grad.T, own, alpha=scale)
                if d_b_out is not None:
                    d_b_out[expert].add_(grad.sum(0))
                if d_in is not None:
                    d_in[expert].addmm_(d_own.T, rows)
                if d_b_in is not None:
                    d_b_in[expert].add_(d_own.sum(0))
            for (expert, _), d_own, d_part in zip(piece, d_hiddens, d_parts, strict=False):
                torch.mm(d_own, w_in[expert], out=d_part)
        return d_rows, d_in, d_b_in, d_out, d_b_out, None, None


_feed_forward: Callable[..., Tensor] = _FeedForward.apply


def _product(out: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """out = scale * left right."""
    torch.addmm(out, left, right, beta=0, alpha=scale, out=out)
