"""Relative attention against a straightforward version of it.

    python -m benchmarks.attention [--runs 5] [--dropout 0.1]

Forward and backward pass of one attention sub-layer of brainformer-tiny (span 2048, batch 4 x 512),
projections included, fp32, runs alternating in one process: median seconds, the ratio, and the peak
memory each adds.

Shapes: G batch times heads, M block, L span, W head width, S = L + M - 1 keys.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

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


def step(compute: Callable[..., Tensor], dropout: float) -> float:
    """Seconds of one forward and backward pass of the sub-layer."""
    torch.manual_seed(0)
    layer = RelativeAttention(WIDTH, HEADS, dropout)
    x = torch.randn(BATCH, BLOCK, WIDTH, requires_grad=True)
    memory = torch.randn(BATCH, SPAN, WIDTH)
    position = torch.randn(WIDTH // HEADS, SPAN, requires_grad=True)
    original = attention.relative_attention
    attention.relative_attention = compute
    try:
        start = time.perf_counter()
        layer(x, memory, position).square().mean().backward()
        return time.perf_counter() - start
    finally:
        attention.relative_attention = original


def peak_bytes(compute: Callable[..., Tensor], dropout: float) -> int:
    """Most bytes of tensors alive at once beyond what there was before."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step(compute, dropout)
    alive = peak = 0
    assert profile.profiler is not None
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dropout", type=float, default=0.1)
    arguments = parser.parse_args()
    paths = {"straightforward": straightforward, "simsmoe": attention.relative_attention}
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for compute in paths.values():
        step(compute, arguments.dropout)
    for _ in range(arguments.runs):
        for name, compute in paths.items():
            seconds[name].append(step(compute, arguments.dropout))
    slow, fast = (statistics.median(seconds[name]) for name in paths)
    for name, compute in paths.items():
        median, best, worst = (f(seconds[name]) for f in (statistics.median, min, max))
        memory = peak_bytes(compute, arguments.dropout) / 2**20
        print(f"{name:16} {median:.3f} s ({best:.3f} to {worst:.3f})  {memory:,.0f} MiB")
    print(f"ratio            {slow / fast:.2f}")


if __name__ == "__main__":
    main()
