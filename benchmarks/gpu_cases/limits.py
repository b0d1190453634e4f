"""The limits of the card: products of matrices, and copies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from benchmarks.gpu_cases.bench import Bench, Figures
from simsmoe_cli.recipe.schema import Recipe


def dense_peak(bench: Bench) -> Figures:
    """One large bf16 product of random numbers."""
    size = 64 if bench.tiny else 8192
    left, right = (torch.randn(size, size, device=bench.device).bfloat16() for _ in range(2))
    out = torch.empty_like(left)
    seconds, _ = bench.seconds(lambda: torch.mm(left, right, out=out), 1.0)
    bench.peak_tflops = 2 * size**3 / seconds / 1e12
    return {"tflops": bench.peak_tflops, "size": size}


def copy_bandwidth(bench: Bench) -> Figures:
    """A copy within the device, bytes read and written."""
    size = 2**16 if bench.tiny else 2**31
    source = torch.empty(size, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    seconds, _ = bench.seconds(lambda: target.copy_(source), 0.5)
    return {"gb_per_s": 2 * size / seconds / 1e9}


def grouped_products(bench: Bench, recipe: Recipe) -> Figures:
    """The grouped products of one expert layer, with even and with uneven loads."""
    moe, width = recipe.moe, recipe.model.width
    inner = moe.hidden * (2 if recipe.model.activation == "swiglu" else 1)
    rows = recipe.train.batch // recipe.train.micro_batches * recipe.train.block * moe.top_k
    x_RD, hidden_RI = (
        torch.randn(rows, size, device=bench.device).bfloat16() for size in (width, inner)
    )
    weight_NID = torch.randn(moe.experts, inner, width, device=bench.device).bfloat16()
    found: Figures = {}
    for load in ("even", "uneven"):
        share = torch.ones(moe.experts) if load == "even" else torch.arange(1.0, moe.experts + 1)
        ends = (share.cumsum(0) / share.sum() * rows).round().to(torch.int32).to(bench.device)
        ways: dict[str, Callable[[], object]] = {
            "forward": lambda e=ends: F.grouped_mm(x_RD, weight_NID.mT, offs=e),
            "d_rows": lambda e=ends: F.grouped_mm(hidden_RI, weight_NID, offs=e),
            "d_weight": lambda e=ends: F.grouped_mm(hidden_RI.T, x_RD, offs=e),
        }
        for name, run in ways.items():
            seconds, _ = bench.seconds(run, 0.2)
            found[f"{name}, {load}: tflops"] = 2 * rows * width * inner / seconds / 1e12
    return found | {"shape": f"[{rows}, {width}] x [{moe.experts}, {width}, {inner}]"}
