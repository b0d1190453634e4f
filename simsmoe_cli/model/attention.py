"""Self-attention of two kinds.

RelativeAttention: the relative attention with a span of the adaptive-span family (Sukhbaatar et
al. 1905.07799) without adaptivity, as in SimSMoE's published code. Each query attends to exactly
the `span` positions before it and not to itself; positions before the stream are zeros and are
attended to. kernels/relative_attention.py computes it.

RopeAttention: rotary positions (Su et al. 2104.09864, in the half-rotation layout of Hugging Face),
causal, with a sliding window that includes the query itself.

Shapes: B batch, M block, L span, S positions seen, D model width, A heads, W head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simsmoe_cli.kernels.cpu import on_cpu_path
from simsmoe_cli.kernels.relative_attention import relative_attention

# Queries that windowed attention handles at a time: fewer waste less on keys outside the window,
# more make better use of a kernel. A CPU is faster with few (LOG.md); not measured on a GPU.
QUERY_CHUNK, QUERY_CHUNK_ON_CPU = 256, 128
# A chunk's first key is a multiple of this. A GPU's kernels copy a mask whose rows are no
# multiple of 8 long.
KEY_ALIGNMENT, KEY_ALIGNMENT_ON_CPU = 8, 1


class RelativeAttention(nn.Module):
    """Attention to the `span` positions before each query, with learned relative positions.

    Args:
        width, heads: D and A.
        dropout: probability on attention weights, in training.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x_BMD: Tensor,
        memory_BLD: Tensor,
        position_WL: Tensor,
        document_BM: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x_BMD: the block.
            memory_BLD: the `span` inputs before the block, oldest first.
            position_WL: the position table; index L-1 is the nearest position.
            document_BM: the document of each position, numbered from that of the memory, 0;
                positions of other documents are seen as zeros. None: all are in one.

        Returns:
            [B, M, D].
        """
        context = torch.cat([memory_BLD.to(x_BMD.dtype), x_BMD], dim=1)
        query = self._split(self.query(x_BMD))
        query = query / math.sqrt(query.shape[-1])
        # No query of this block attends to its last position.
        key, value = (self._split(layer(context[:, :-1])) for layer in (self.key, self.value))
        documents = None
        if document_BM is not None:
            documents = document_BM, with_earlier(document_BM, memory_BLD.shape[1])[:, :-1]
        heads = relative_attention(
            query.flatten(0, 1),
            key.flatten(0, 1),
            value.flatten(0, 1),
            position_WL,
            self.dropout if self.training else 0.0,
            documents,
        )
        out: Tensor = self.out(heads.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)


class RopeAttention(nn.Module):
    """Causal attention with rotary positions and a sliding window.

    Args:
        width, heads: D and A.
        window: keys a query sees, itself included.
        base: of the rotary frequencies.
        dropout: probability on attention weights, in training.
    """

    def __init__(self, width: int, heads: int, window: int, base: float, dropout: float):
        super().__init__()
        self.heads = heads
        self.window = window
        self.base = base
        self.dropout = dropout
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BMD: Tensor, document_BM: Tensor | None = None) -> Tensor:
        """[B, M, D] -> [B, M, D]; with documents, a position sees only those of its own."""
        return self._attend(self.query(x_BMD), self.key(x_BMD), self.value(x_BMD), document_BM)

    def extend(
        self, x_BMD: Tensor, cache_BSE: Tensor, document_BM: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend to the positions before the block as well.

        Keys are cached unrotated and rotated when they are used, by their index in the cache. Only
        distances matter, so angles stay small and exact however long the text grows.

        Args:
            x_BMD: the block.
            cache_BSE: keys and values side by side, E = 2D, of the S positions before it.
            document_BM: the document of each position of the block; the cache is of document 0.

        Returns:
            [B, M, D], and the cache for the next block: at most a window less one position.
        """
        own_BME = torch.cat([self.key(x_BMD), self.value(x_BMD)], dim=-1)
        seen_BSE = torch.cat([cache_BSE, own_BME], dim=1)
        key_BSD, value_BSD = seen_BSE.chunk(2, dim=-1)
        out = self._attend(self.query(x_BMD), key_BSD, value_BSD, document_BM)
        return out, seen_BSE[:, max(0, seen_BSE.shape[1] - self.window + 1) :]

    def _attend(
        self, query_BMD: Tensor, key_BSD: Tensor, value_BSD: Tensor, document_BM: Tensor | None
    ) -> Tensor:
        """The queries are those of the last M of S positions."""
        query, key, value = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (query_BMD, key_BSD, value_BSD)
        )
        if on_cpu_path(query):
            # The kernel for CPUs is slower in bf16 than in fp32 (LOG.md).
            kind = torch.promote_types(query.dtype, torch.float32)
            with torch.autocast("cpu", enabled=False):
                heads_BMD = self._heads(query.to(kind), key.to(kind), value.to(kind), document_BM)
        else:
            heads_BMD = self._heads(query, key, value, document_BM)
        out: Tensor = self.out(heads_BMD)
        return out

    def _heads(
        self, query: Tensor, key: Tensor, value: Tensor, document_BM: Tensor | None
    ) -> Tensor:
        """The attention output, [B, M, D], from queries [B, A, M, W], keys and values [B, A, S,
        W]."""
        block, seen = query.shape[2], key.shape[2]
        position = torch.arange(seen, device=query.device)
        cos, sin = rotary(position, query.shape[-1], self.base, query.dtype)
        query = rotate(query, cos[-block:], sin[-block:])
        key = rotate(key, cos, sin)
        dropout = self.dropout if self.training else 0.0
        # A window that is shorter than the text saves work: each chunk of queries gets only the
        # keys that one of its queries sees.
        on_cpu = query.device.type == "cpu"
        step = QUERY_CHUNK_ON_CPU if on_cpu else QUERY_CHUNK
        align = KEY_ALIGNMENT_ON_CPU if on_cpu else KEY_ALIGNMENT
        if block == seen <= self.window and document_BM is None:
            step = block
        document_BS = None if document_BM is None else with_earlier(document_BM, seen - block)
        bounds = [(start, min(start + step, seen)) for start in range(seen - block, seen, step)]
        windows = [
            (max(0, start - self.window + 1) // align * align, stop) for start, stop in bounds
        ]
        queries = query.split(step, dim=2)
        keys, values = slices(key, windows), slices(value, windows)
        chunks = []
        for number, ((start, stop), (first, _)) in enumerate(zip(bounds, windows, strict=True)):
            causal = start == first and stop - first <= self.window and document_BS is None
            mask = None
            if not causal:
                distance = position[start:stop, None] - position[None, first:stop]
                mask = (distance >= 0) & (distance < self.window)
                if document_BS is not None:
                    query_BC, key_BS = document_BS[:, start:stop], document_BS[:, first:stop]
                    mask = mask & (query_BC[:, None, :, None] == key_BS[:, None, None])
            heads_BAMW = F.scaled_dot_product_attention(
                queries[number],
                keys[number],
                values[number],
                attn_mask=mask,
                is_causal=causal,
                dropout_p=dropout,
            )
            chunks.append(heads_BAMW.transpose(1, 2))
        return torch.cat(chunks, dim=1).flatten(2)


def with_earlier(document_BM: Tensor, earlier: int) -> Tensor:
    """The document of each of so many positions before a block, which is 0, and of the block's."""
    return F.pad(document_BM, (earlier, 0))


def slices(x_BASW: Tensor, bounds: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
    """Overlapping parts of the positions, each from first to before stop.

    Their gradients are added up in one tensor. With plain slicing, each gradient would be a tensor
    of full size, mostly zeros, so the time would grow with the square of the number of parts.
    """
    if torch.compiler.is_compiling():
        return tuple(x_BASW[:, :, first:stop] for first, stop in bounds)
    return _slices(x_BASW, bounds)


class _Slices(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BASW: Tensor, bounds: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
        ctx.bounds, ctx.shape = bounds, x_BASW.shape
        return tuple(x_BASW[:, :, first:stop] for first, stop in bounds)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        out = grads[0].new_zeros(ctx.shape)
        for (first, stop), grad in zip(ctx.bounds, grads, strict=True):
            out[:, :, first:stop] += grad
        return out, None


_slices: Callable[..., tuple[Tensor, ...]] = _Slices.apply


def rotary(
    position_M: Tensor, width: int, base: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, each [M, W / 2]."""
    if torch.compiler.is_compiling():
        cos, sin = _opaque_rotary(position_M, width, base, dtype)
        return cos, sin
    return _rotary(position_M, width, base, dtype)


def _rotary(
    position_M: Tensor, width: int, base: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    exponent = torch.arange(0, width, 2, device=position_M.device).float() / width
    angle = position_M[:, None].float() * base**-exponent
    return angle.cos().to(dtype), angle.sin().to(dtype)


@torch.library.custom_op("simsmoe::rotary", mutates_args=())
def _opaque_rotary(
    position_M: Tensor, width: int, base: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Keeps the compiler from computing power, cosine and sine again for every element that is
    rotated, in the forward and in the backward pass."""
    return _rotary(position_M, width, base, dtype)


@_opaque_rotary.register_fake
def _(position_M: Tensor, width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    shape = position_M.shape[0], width // 2
    return position_M.new_empty(shape, dtype=dtype), position_M.new_empty(shape, dtype=dtype)


def rotate(x_BAMW: Tensor, cos_MW: Tensor, sin_MW: Tensor) -> Tensor:
    """Rotate each pair (w, w + W/2) of features by its position's angle, given for w < W/2."""
    if torch.compiler.is_compiling():
        # In the order of the linear layers, so that no copy in another order is needed.
        left, right = x_BAMW.transpose(1, 2).chunk(2, dim=-1)
        cos_M1W, sin_M1W = cos_MW.unsqueeze(1), sin_MW.unsqueeze(1)
        turned = left * cos_M1W - right * sin_M1W, right * cos_M1W + left * sin_M1W
        return torch.cat(turned, dim=-1).transpose(1, 2)
    return _rotate(x_BAMW, cos_MW, sin_MW)


class _Rotate(torch.autograd.Function):
    """In one pass over memory; the gradient is rotated back."""

    @staticmethod
    def forward(ctx: Any, x_BAMW: Tensor, cos_MW: Tensor, sin_MW: Tensor) -> Tensor:
        ctx.save_for_backward(cos_MW, sin_MW)
        return _turned(x_BAMW, cos_MW, sin_MW, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BAMW: Tensor) -> tuple[Tensor, None, None]:
        cos_MW, sin_MW = ctx.saved_tensors
        return _turned(grad_BAMW, cos_MW, sin_MW, -1), None, None


_rotate: Callable[..., Tensor] = _Rotate.apply


def _turned(x_BAMW: Tensor, cos_MW: Tensor, sin_MW: Tensor, way: int) -> Tensor:
    out = torch.empty_like(x_BAMW)
    left, right = x_BAMW.chunk(2, dim=-1)
    to_left, to_right = out.chunk(2, dim=-1)
    torch.mul(left, cos_MW, out=to_left).addcmul_(right, sin_MW, value=-way)
    torch.mul(right, cos_MW, out=to_right).addcmul_(left, sin_MW, value=way)
    return out
