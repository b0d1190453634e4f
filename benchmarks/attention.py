"""Relative attention against a straightforward version of it.

Forward and backward pass of one attention sub-layer of brainformer-tiny (span 2048, batch 4 x 512),
projections included, fp32.

Shapes: G batch times heads, M block, L span, W head width, S = L + M - 1 keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import Case
from simsmoe_cli.model import attention
from simsmoe_cli.model.attention import RelativeAttention

WIDTH, HEADS, SPAN, BATCH, BLOCK = 128, 8, 2048, 4, 512


def straightforward(
    query_GMW: Tensor,
    key_GSW: Tensor,
    value_GSW: Tensor,
    position_WL: Tensor,
    dropout: float = 0.0,
) -> Tensor:
    """`relative_attention` by the whole matrix of queries and keys, skewed there and back."""
    groups, block, _ = query_GMW.shape
    span = position_WL.shape[1]
    # One more key, so that rows are M + L long and row i + 1 begins one further.
    scores = F.pad(query_GMW @ key_GSW.transpose(1, 2), (0, 1)).flatten(1)
    scores = F.pad(scores, (0, block)).view(groups, block, block + span + 1)[..., :span]
    weight = F.dropout((scores + query_GMW @ position_WL).softmax(-1), dropout)
    weight = F.pad(weight, (0, block + 1)).flatten(1)[:, :-block]
    return weight.view(groups, block, block + span)[..., :-1] @ value_GSW


def step(compute: Callable[..., Tensor], dropout: float) -> None:
    """One forward and backward pass of the sub-layer."""
    torch.manual_seed(0)
    layer = RelativeAttention(WIDTH, HEADS, dropout)
    x = torch.randn(BATCH, BLOCK, WIDTH, requires_grad=True)
    memory = torch.randn(BATCH, SPAN, WIDTH)
    position = torch.randn(WIDTH // HEADS, SPAN, requires_grad=True)
    original = attention.relative_attention
    attention.relative_attention = compute
    try:
        layer(x, memory, position).square().mean().backward()
    finally:
        attention.relative_attention = original


def cases(dropout: float) -> list[Case]:
    """Both versions, each one forward and backward pass of the sub-layer."""
    paths = {"straightforward": straightforward, "simsmoe": attention.relative_attention}
    return [
        Case(name, functools.partial(step, compute, dropout), BATCH * BLOCK, "tokens")
        for name, compute in paths.items()
    ]
