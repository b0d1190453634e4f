"""Relative attention over a span: scores q.k_j + q.p_dist for the L keys before each query.

Replaces a matrix product, softmax, dropout and a second product over all queries and keys. The
oracle is that formula, query by query, in tests/kernels/test_relative_attention.py, and the papers'
code in tests/golden.

In a matrix of queries times keys, the scores within the span lie on a diagonal band: query i sees
keys i to i + L - 1. With a row stride one longer than a row, that band is a plain matrix view of
the same memory, so position scores are added, and position gradients read, without copies (the
published code of this family copies into a skewed layout twice).

Two paths compute the same. On a CPU, tiles have so few queries that their scores stay in cache; the
backward pass computes the scores again instead of storing them. Elsewhere, and under
torch.compile: chunks of queries in plain differentiable operations, where each chunk scores only
the keys it may see, and one more.

With documents, a query sees keys and values of other documents as zeros, as it sees the positions
before a stream: their content scores are 0, and their values add nothing.

Shapes: B batch, G batch times heads, M block, L span, W head width, C queries of a tile or chunk,
S keys a tile or chunk scores: the L + C - 1 it sees, in a chunk one more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from simsmoe_cli.kernels.cpu import on_cpu_path
from simsmoe_cli.kernels.dropout import draw_kept

QUERY_CHUNK = 128
# On a CPU a tile has fewer queries where the span is long, so that its scores stay in cache.
TILE_SCORES, FEWEST_QUERIES = 3 << 16, 32


def relative_attention(
    query_GMW: Tensor,
    key_GSW: Tensor,
    value_GSW: Tensor,
    position_WL: Tensor,
    dropout: float,
    documents: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """softmax(q.k + q.p) v for the L keys before each query.

    Args:
        query_GMW: scaled.
        key_GSW, value_GSW: L + M - 1 rows; query i sees rows i to i + L - 1.
        position_WL: column l belongs to row i + l.
        dropout: probability that an attention weight is dropped.
        documents: the document of each query [B, M] and of each key [B, L + M - 1], as numbers that
            never fall along a row; None: all are in one.

    Returns:
        [G, M, W].
    """
    if on_cpu_path(query_GMW):
        kind = torch.promote_types(query_GMW.dtype, torch.float32)
        parts = (query_GMW, key_GSW, value_GSW, position_WL)
        with torch.autocast("cpu", enabled=False):
            out = _tiled(*(part.to(kind).contiguous() for part in parts), dropout, documents)
        return out.to(query_GMW.dtype)
    return _chunked(query_GMW, key_GSW, value_GSW, position_WL, dropout, documents)


def _chunked(
    query_GMW: Tensor,
    key_GSW: Tensor,
    value_GSW: Tensor,
    position_WL: Tensor,
    dropout: float,
    documents: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    block, span = query_GMW.shape[1], position_WL.shape[1]
    # A chunk scores one key more than its queries see: L + C keys are a multiple of 8 where L and C
    # are. A GPU multiplies matrices of other row lengths slowly, or after a copy of them.
    key_GWS = F.pad(key_GSW, (0, 0, 0, 1)).transpose(-2, -1)
    value_GSW = F.pad(value_GSW, (0, 0, 0, 1))
    if documents is not None:
        documents = documents[0], F.pad(documents[1], (0, 1))
    chunks = []
    for start in range(0, block, QUERY_CHUNK):
        q = query_GMW[:, start : start + QUERY_CHUNK]
        seen = slice(start, start + span + q.shape[1])
        content = q @ key_GWS[..., seen]
        if documents is not None:
            same_BCS = _same(documents, slice(start, start + q.shape[1]), seen)
            same_GCS = same_BCS.repeat_interleave(len(q) // len(same_BCS), 0).to(q.dtype)
            content = content * same_GCS
        weight = F.dropout((content + band(q @ position_WL)).softmax(-1), dropout)
        if documents is not None:
            weight = weight * same_GCS
        chunks.append(weight @ value_GSW[:, seen])
    return torch.cat(chunks, dim=1)


def _same(documents: tuple[Tensor, Tensor], rows: slice, seen: slice) -> Tensor:
    """Whether query and key are in one document, [B, C, S]."""
    query_BM, key_BS = documents
    return query_BM[:, rows, None] == key_BS[:, None, seen]


def band(score_CL: Tensor) -> Tensor:
    """From scores by distance to scores by key: row i moves i to the right, the rest is -inf.

    Args:
        score_CL: [..., C, L], column j for the key j positions into the query's span.

    Returns:
        [..., C, L + C], for the keys of the whole chunk and the one after them.
    """
    rows, span = score_CL.shape[-2:]
    flat = F.pad(score_CL, (0, rows + 1), value=-math.inf).flatten(-2)
    flat = flat[..., : rows * (span + rows)]
    return flat.view(*flat.shape[:-1], rows, span + rows)


class _Tile:
    """The scores of C queries against the S keys they see, in memory that tiles share.

    Attributes:
        scores_CS: all of them.
        band_CL: those within the span, by distance, in the same memory.
        off_band: the others: what follows the span in one row and what precedes it in the next one
            are neighbours.
        mask_CL: memory for the dropout mask as numbers: products of mixed types are slow.
    """

    def __init__(self, memory: Tensor, rows: int, span: int):
        keys = span + rows - 1
        self.scores_CS = memory[: rows * keys].view(rows, keys)
        self.band_CL = memory.as_strided((rows, span), (keys + 1, 1))
        self.off_band = memory.as_strided((rows - 1, rows), (keys + 1, 1), span)
        self.mask_CL = memory.new_empty(rows, span)

    def keep(self, kept_CL: Tensor) -> None:
        """Zero what dropout does not keep."""
        self.band_CL.mul_(self.mask_CL.copy_(kept_CL))


class _Tiles:
    """The place of each tile, and memory for the two that are in use at a time."""

    def __init__(
        self, query_GMW: Tensor, span: int, documents: tuple[Tensor, Tensor] | None = None
    ):
        self.groups, self.block, _ = query_GMW.shape
        self._documents = documents
        self._dtype = query_GMW.dtype
        self.span = span
        self.queries = QUERY_CHUNK
        while self.queries > FEWEST_QUERIES and self.queries * (span + self.queries) > TILE_SCORES:
            self.queries //= 2
        largest = min(self.queries, self.block)
        size = largest * (span + largest - 1)
        sizes = {largest, self.block % largest or largest}
        self.first, self.second = (
            {rows: _Tile(memory, rows, span) for rows in sizes}
            for memory in (query_GMW.new_empty(size), query_GMW.new_empty(size))
        )

    def __iter__(self) -> Iterator[tuple[slice, slice, _Tile, _Tile]]:
        """Queries, the keys they see, and two tiles of that size, for use by every group."""
        for start in range(0, self.block, self.queries):
            stop = min(start + self.queries, self.block)
            two = self.first[stop - start], self.second[stop - start]
            yield slice(start, stop), slice(start, stop + self.span - 1), *two

    def same(self, rows: slice, seen: slice) -> list[Tensor | None]:
        """For each group, 1 where query and key are in one document, else 0, [C, S]; None: all of
        them are."""
        if self._documents is None:
            return [None] * self.groups
        one_BCS = [
            None if key_S[0] == query_C[-1] else (query_C[:, None] == key_S).to(self._dtype)
            for query_C, key_S in zip(
                self._documents[0][:, rows], self._documents[1][:, seen], strict=True
            )
        ]
        heads = self.groups // len(one_BCS)
        return [one for one in one_BCS for _ in range(heads)]


class _Tiled(torch.autograd.Function):
    """The path for CPUs: attention weights are computed again for gradients, never stored.

    Weights are exp(score - z), where z is the logarithm of a query's sum. The backward pass gets
    it from position scores, as one feature more of queries and positions. Kept weights are divided
    by the probability to be kept where that is cheapest: in the output, and in its gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        position: Tensor,
        dropout: float,
        documents: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        span = position.shape[1]
        tiles = _Tiles(query, span, documents)
        key_GWS = key.mT.contiguous()
        out, z_GM1 = torch.empty_like(query), query.new_empty(*query.shape[:2], 1)
        kept, scale = None, 1.0
        if dropout:
            kept, scale = draw_kept((*query.shape[:2], span), dropout)
        for rows, seen, tile, _ in tiles:
            scores_CS, weight_CL = tile.scores_CS, tile.band_CL
            kept_of = [None] * len(query) if kept is None else kept[:, rows].unbind()
            parts = (query[:, rows], key_GWS[..., seen], value[:, seen], out[:, rows])
            groups = (
                *(part.unbind() for part in (*parts, z_GM1[:, rows])),
                kept_of,
                tiles.same(rows, seen),
            )
            for q, k, v, heads, z, kept_CL, same_CS in zip(*groups, strict=True):
                torch.mm(q, k, out=scores_CS)
                if same_CS is not None:
                    scores_CS.mul_(same_CS)
                weight_CL.addmm_(q, position)
                tile.off_band.zero_()
                largest_C1 = weight_CL.amax(-1, keepdim=True)
                total_C1 = weight_CL.sub_(largest_C1).exp_().sum(-1, keepdim=True)
                if kept_CL is not None:
                    tile.keep(kept_CL)
                if same_CS is not None:
                    scores_CS.mul_(same_CS)
                torch.mm(scores_CS, v, out=heads).div_(total_C1)
                torch.add(total_C1.log_(), largest_C1, out=z)
        ctx.save_for_backward(query, key, value, position, z_GM1)
        ctx.kept, ctx.scale, ctx.documents = kept, scale, documents
        return out if kept is None else out.mul_(scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        query, key, value, position, z_GM1 = ctx.saved_tensors
        span = position.shape[1]
        tiles = _Tiles(query, span, ctx.documents)
        key_GWS, value_GWS = key.mT.contiguous(), value.mT.contiguous()
        d_query, d_position = torch.empty_like(query), torch.zeros_like(position)
        d_key, d_value = torch.zeros_like(key_GWS), torch.zeros_like(value_GWS)
        query_GMX = torch.cat([query, z_GM1], dim=-1)
        position_XL = torch.cat([position, position.new_full((1, span), -1)])
        grad = grad.contiguous() if ctx.kept is None else grad * ctx.scale
        softmax_backward = torch.ops.aten._softmax_backward_data.out
        for rows, seen, tile, score in tiles:
            kept_of = [None] * len(query) if ctx.kept is None else ctx.kept[:, rows].unbind()
            of_rows = (query, query_GMX, grad, d_query)
            of_keys = (key_GWS, value_GWS, d_key, d_value)
            groups = (
                *(part[:, rows].unbind() for part in of_rows),
                key[:, seen].unbind(),
                *(part[..., seen].unbind() for part in of_keys),
                kept_of,
                tiles.same(rows, seen),
            )
            weight_CS, d_score_CS = tile.scores_CS, score.scores_CS
            for q, q_and_z, g, d_q, key_SW, k, v, d_k, d_v, kept_CL, same_CS in zip(
                *groups, strict=True
            ):
                torch.mm(q, k, out=weight_CS)
                if same_CS is not None:
                    weight_CS.mul_(same_CS)
                tile.band_CL.addmm_(q_and_z, position_XL).exp_()
                tile.off_band.zero_()
                # What score holds: d weight, then d score.
                torch.mm(g, v, out=d_score_CS)
                if same_CS is not None:
                    d_score_CS.mul_(same_CS)
                if kept_CL is not None:
                    score.keep(kept_CL)
                softmax_backward(d_score_CS, weight_CS, -1, query.dtype, grad_input=d_score_CS)
                if kept_CL is not None:
                    tile.band_CL.mul_(score.mask_CL)
                torch.mm(score.band_CL, position.T, out=d_q)
                d_position.addmm_(q.T, score.band_CL)
                if same_CS is not None:
                    weight_CS.mul_(same_CS)
                    d_score_CS.mul_(same_CS)
                d_v.addmm_(g.T, weight_CS)
                d_q.addmm_(d_score_CS, key_SW)
                d_k.addmm_(q.T, d_score_CS)
        return d_query, d_key.mT, d_value.mT, d_position, None, None


_tiled: Callable[..., Tensor] = _Tiled.apply
