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
the keys it may see.

With documents, a query sees keys and values of other documents as zeros, as it sees the positions
before a stream: their content scores are 0, and their values add nothing.

Shapes: B batch, G batch times heads, M block, L span, W head width, C queries of a tile or chunk,
S = L + C - 1 keys a tile sees.
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
    key_GWS = key_GSW.transpose(-2, -1)
    chunks = []
    for start in range(0, block, QUERY_CHUNK):
        q = query_GMW[:, start : start + QUERY_CHUNK]
        seen = slice(start, start + span + q.shape[1] - 1)
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
        [..., C, L + C - 1], for the keys of the whole chunk.
    """
    rows, span = score_CL.shape[-2:]
    flat = F.pad(score_CL, (0, rows), value=-math.inf).flatten(-2)
    flat = flat[..., : rows * (span + rows - 1)]
    return flat.view(*flat.shape[:-1], rows, span + rows - 1)


class _Tile:
    """The scores of C queries against the S keys they see, in memory that tiles share.

    Attributes:
        scores_CS: all of them.
        band_CL: those within the span, by distance, in the same memory.
        mask_CL: memory for the dropout mask as numbers: products of mixed types are slow.
    """

    def __init__(self, memory: Tensor, rows: int, span: int):
        keys = span + rows - 1
        self.rows, self.span = rows, span
        self.scores_CS = memory[: rows * keys].view(rows, keys)
        self.band_CL = memory.as_strided((rows, span), (keys + 1, 1))
        self.mask_CL = memory.new_empty(rows, span)
        off = memory.new_full((rows, rows - 1), -math.inf)
        self._before, self._after = off.tril(-1), off.triu()

    def weigh(
        self, query_CW: Tensor, key_SW: Tensor, position_WL: Tensor, same_CS: Tensor | None
    ) -> None:
        """Attention weights, 0 off the band."""
        torch.mm(query_CW, key_SW.T, out=self.scores_CS)
        if same_CS is not None:
            self.scores_CS.mul_(same_CS)
        self.band_CL.addmm_(query_CW, position_WL)
        if self.rows > 1:
            self.scores_CS[:, : self.rows - 1].add_(self._before)
            self.scores_CS[:, self.span :].add_(self._after)
        torch.softmax(self.scores_CS, -1, out=self.scores_CS)

    def drop(self, kept_CL: Tensor, scale: float) -> None:
        """Zero what dropout does not keep, and scale the rest."""
        self.band_CL.mul_(self.mask_CL.copy_(kept_CL).mul_(scale))


class _Tiles:
    """The position of each tile, and memory for the two that are in use at a time."""

    def __init__(
        self, query_GMW: Tensor, span: int, documents: tuple[Tensor, Tensor] | None = None
    ):
        self._documents = documents
        self._dtype = query_GMW.dtype
        self.groups, self.block, _ = query_GMW.shape
        self.span = span
        largest = min(QUERY_CHUNK, self.block)
        size = largest * (span + largest - 1)
        sizes = {largest, self.block % largest or largest}
        self.first, self.second = (
            {rows: _Tile(memory, rows, span) for rows in sizes}
            for memory in (query_GMW.new_empty(size), query_GMW.new_empty(size))
        )

    def __iter__(self) -> Iterator[tuple[int, slice, slice]]:
        """(group, queries, keys they see), as an index and two slices."""
        for group in range(self.groups):
            for start in range(0, self.block, QUERY_CHUNK):
                stop = min(start + QUERY_CHUNK, self.block)
                yield group, slice(start, stop), slice(start, stop + self.span - 1)

    def same(self, group: int, rows: slice, seen: slice) -> Tensor | None:
        """1 where query and key are in one document, else 0, [C, S]; None: all of them are."""
        if self._documents is None:
            return None
        query_BM, key_BS = self._documents
        own = group * len(query_BM) // self.groups
        query_C, key_S = query_BM[own, rows], key_BS[own, seen]
        if key_S[0] == query_C[-1]:
            return None
        return (query_C[:, None] == key_S).to(self._dtype)


class _Tiled(torch.autograd.Function):
    """The path for CPUs: attention weights are computed again for gradients, never stored."""

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
        tiles = _Tiles(query, position.shape[1], documents)
        out = torch.empty_like(query)
        kept, scale = None, 1.0
        if dropout:
            kept, scale = draw_kept((*query.shape[:2], position.shape[1]), dropout)
            kept = kept.view(torch.uint8)  # converts faster than bool
        for group, rows, seen in tiles:
            tile = tiles.first[rows.stop - rows.start]
            same = tiles.same(group, rows, seen)
            tile.weigh(query[group, rows], key[group, seen], position, same)
            if kept is not None:
                tile.drop(kept[group, rows], scale)
            if same is not None:
                tile.scores_CS.mul_(same)
            torch.mm(tile.scores_CS, value[group, seen], out=out[group, rows])
        ctx.save_for_backward(query, key, value, position)
        ctx.kept, ctx.scale, ctx.documents = kept, scale, documents
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        query, key, value, position = ctx.saved_tensors
        tiles = _Tiles(query, position.shape[1], ctx.documents)
        grads = [torch.zeros_like(part) for part in (query, key, value, position)]
        d_query, d_key, d_value, d_position = grads
        grad = grad.contiguous()
        softmax_backward = torch.ops.aten._softmax_backward_data.out
        for group, rows, seen in tiles:
            weight = tiles.first[rows.stop - rows.start]
            score = tiles.second[rows.stop - rows.start]
            q, k, v, g = query[group, rows], key[group, seen], value[group, seen], grad[group, rows]
            same = tiles.same(group, rows, seen)
            weight.weigh(q, k, position, same)
            # What score holds: d weight, then d score.
            torch.mm(g, v.T, out=score.scores_CS)
            if same is not None:
                score.scores_CS.mul_(same)
            if ctx.kept is not None:
                score.drop(ctx.kept[group, rows], ctx.scale)
            softmax_backward(
                score.scores_CS, weight.scores_CS, -1, query.dtype, grad_input=score.scores_CS
            )
            if ctx.kept is not None:
                weight.band_CL.mul_(score.mask_CL)
            d_query[group, rows].addmm_(score.band_CL, position.T)
            d_position.addmm_(q.T, score.band_CL)
            if same is not None:
                weight.scores_CS.mul_(same)
                score.scores_CS.mul_(same)
            d_value[group, seen].addmm_(weight.scores_CS.T, g)
            d_query[group, rows].addmm_(score.scores_CS, k)
            d_key[group, seen].addmm_(score.scores_CS.T, q)
        return d_query, d_key, d_value, d_position, None, None


_tiled: Callable[..., Tensor] = _Tiled.apply
