"""The loss of a large vocabulary, in chunks and with whole logits.

Forward and backward pass of the output layer alone, fp32, at WikiText-103's vocabulary.
"""

from __future__ import annotations

import functools

import torch

from benchmarks.timing import Case
from simsmoe_cli.kernels import cross_entropy

VOCABULARY, WIDTH, TOKENS = 267_735, 256, 1024


def loss(chunk_logits: int, tokens: int) -> None:
    """One forward and backward pass."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, requires_grad=True)
    target = torch.randint(VOCABULARY, (tokens,))
    original = cross_entropy.CHUNK_LOGITS
    cross_entropy.CHUNK_LOGITS = chunk_logits
    try:
        cross_entropy.total_cross_entropy(hidden, weight, None, target).backward()
    finally:
        cross_entropy.CHUNK_LOGITS = original


def cases() -> list[Case]:
    """Whole logits, and chunks for as many tokens and for twice as many."""
    chunk = cross_entropy.CHUNK_LOGITS
    settings = {
        "whole logits": (1 << 40, TOKENS),
        "simsmoe": (chunk, TOKENS),
        "simsmoe, twice the tokens": (chunk, 2 * TOKENS),
    }
    return [
        Case(name, functools.partial(loss, *given), given[1], "tokens")
        for name, given in settings.items()
    ]
