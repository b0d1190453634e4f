"""Training on a GPU: against the card's own limits, and against transformers' Mixtral.

    python -m benchmarks.run gpu [--minutes 7] [--json FILE] [--only REGEX]

Cases run in the order of their importance until the time is up; the others are reported as not run.
A case that fails is reported with its error, and the next one runs. Every case times what
`simsmoe pretrain` does in a step (train/loop.py): read, copy, forward, backward, clip, update.

MFU: model FLOPs, as --dry-run counts them (model/size.py), over the rate of one large bf16 product
measured in the same run. "Outside products" is the share of a step's time in which no matrix
product and no attention kernel runs, idle time included.

Compiled: "whole" is train.compile (one graph), "layers" compiles what a sub-layer does, once for
each kind, which takes far less time to compile; "graphs" is one graph that is recorded and replayed
as CUDA graphs, for models that are bound by launches.

`--tiny` is everything in small, on any device, to see that it works.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_cases.bench import WIDE, Bench, Figures
from benchmarks.gpu_cases.limits import copy_bandwidth, dense_peak, grouped_products
from benchmarks.gpu_cases.probe_and_generate import generating, probing
from benchmarks.gpu_cases.steps import TOP, mixtral_training, training
from simsmoe_cli.recipe.schema import Recipe

EXPERT_COUNTS = (8, 16, 32, 64, 128)
PEAK = "dense bf16 product"


@dataclass(frozen=True)
class GpuCase:
    """A case; `needs` is about how many seconds it takes on an H100."""

    name: str
    needs: float
    run: Callable[[], Figures]


def cases(bench: Bench) -> list[GpuCase]:
    """In the order of their importance."""
    modern, wide = bench.recipe("mistral-modern"), bench.recipe("mistral-modern", *WIDE)
    large = bench.recipe("brainformer-large")

    def similar(preset: str, *overrides: str) -> Recipe:
        # From the first step: a schedule may begin with 0, where nothing is compared.
        learning = [f"similarity.preset={preset}", "similarity.weight=0.003"]
        return bench.recipe("mistral-modern", *overrides, *learning)

    def trained(name: str, needs: float, recipe: Recipe, compiled: str, kernels: bool) -> GpuCase:
        how = f"compiled ({compiled})" if compiled else "eager"
        return GpuCase(
            f"{name}, {how}", needs, lambda: training(bench, recipe, compiled, kernels=kernels)
        )

    def peer(name: str, needs: float, recipe: Recipe, compiled: str) -> GpuCase:
        how = "compiled (whole)" if compiled else "eager"
        return GpuCase(
            f"transformers Mixtral, {name}, {how}",
            needs,
            lambda: mixtral_training(bench, recipe, compiled),
        )

    found = [
        GpuCase(PEAK, 4, lambda: dense_peak(bench)),
        GpuCase("copy", 2, lambda: copy_bandwidth(bench)),
        GpuCase("grouped products, wide", 3, lambda: grouped_products(bench, wide)),
        GpuCase("grouped products, mistral-modern", 3, lambda: grouped_products(bench, modern)),
        trained("wide", 15, wide, "", True),
        trained("wide", 25, wide, "layers", True),
        trained("wide", 50, wide, "whole", True),
        peer("wide", 40, wide, "whole"),
        trained("brainformer-large", 15, large, "", True),
        trained("brainformer-large", 30, large, "layers", True),
        trained("mistral-modern", 12, modern, "", True),
        trained("mistral-modern", 25, modern, "layers", True),
        trained("mistral-modern", 70, modern, "graphs", True),
    ]
    for preset in ("calibrated", "published"):
        found.append(trained(f"wide, {preset}", 25, similar(preset, *WIDE), "layers", True))
    for preset in ("calibrated", "published"):
        found.append(trained(f"mistral-modern, {preset}", 25, similar(preset), "layers", False))
    found += [
        GpuCase("probe, mistral-modern", 5, lambda: probing(bench, modern)),
        GpuCase("generate, mistral-modern", 8, lambda: generating(bench, modern)),
    ]
    for experts in EXPERT_COUNTS:
        few = bench.recipe("mistral-modern", "model.repeats=4", f"moe.experts={experts}")
        found.append(trained(f"N = {experts}, 4 layers", 15, few, "layers", False))
    found += [
        peer("wide", 15, wide, ""),
        trained("mistral-modern", 70, modern, "whole", True),
        peer("mistral-modern", 60, modern, "whole"),
        trained("brainformer-large", 120, large, "whole", True),
    ]
    return found


def gpu(
    device: str,
    minutes: float,
    tiny: bool,
    on_case: Callable[[list[dict[str, Any]]], None],
    *,
    only: str = "",
    all_of_it: bool | None = None,
) -> list[dict[str, Any]]:
    """Run as many cases as there is time for.

    Args:
        device: "auto", "cpu" or "cuda".
        minutes: after which no case is begun.
        tiny: everything in small.
        on_case: given all results after each case.
        only: a regular expression of names of cases; the peak is measured whatever it says.
        all_of_it: whatever time is left; None: in small only.
    """
    all_of_it = tiny if all_of_it is None else all_of_it
    begun = time.perf_counter()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not tiny:
        print("There is no GPU here; --tiny shows on a CPU that everything works.", file=sys.stderr)
        return []
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(torch.device(device), tiny, Path(folder))
        if device == "cuda":
            properties = torch.cuda.get_device_properties(0)
            name, memory = properties.name, properties.total_memory / 2**30
            print(f"{name}, {memory:.0f} GiB, CUDA {torch.version.cuda}", flush=True)
            results.append({"name": "device", "device": name, "memory_gib": memory})
        wanted = re.compile(only)
        for case in cases(bench):
            if not (wanted.search(case.name) or case.name == PEAK):
                continue
            left = 60 * minutes - (time.perf_counter() - begun)
            row: dict[str, Any] = {"name": case.name}
            if left < case.needs and not all_of_it:
                row["not_run"] = f"{left:.0f} s were left, it needs about {case.needs:.0f}"
            else:
                start = time.perf_counter()
                try:
                    row |= case.run()
                except Exception as error:
                    row["error"] = f"{type(error).__name__}: {error}"[:2000]
                    row["traceback"] = traceback.format_exc()[-4000:]
                row["took_s"] = time.perf_counter() - start
                bench.forget()
            results.append(row)
            print(in_words(row), flush=True)
            on_case(results)
    show_kernels(results)
    return results


def in_words(row: dict[str, Any]) -> str:
    """A case on one line."""
    if "not_run" in row:
        text = f"not run: {row['not_run']}"
    elif "error" in row:
        text = " ".join(row["error"].split())[:300]
    else:
        shown = {
            "tokens_per_s": "{:,.0f} tokens/s", "step_ms": "{:.2f} ms", "mfu": "MFU {:.1%}",
            "tflops": "{:.1f} TFLOP/s", "gb_per_s": "{:,.0f} GB/s", "peak_gib": "{:.2f} GiB",
            "predicted_gib": "predicted {:.2f}", "outside_products": "{:.0%} outside products",
            "busy": "busy {:.0%}", "kernels_a_step": "{:.0f} kernels", "ready_s": "ready {:.0f} s",
            "seconds": "{:.4f} s",
        }  # fmt: skip
        parts = [form.format(row[key]) for key, form in shown.items() if key in row]
        parts += [f"{key} {row[key]:.0f}" for key in row if key.endswith(": tflops")]
        text = "  ".join(parts)
    return f"{row['name']:<50} {text}  [{row.get('took_s', 0):.0f} s]"


def show_kernels(results: list[dict[str, Any]]) -> None:
    """What the slowest step that was profiled spends its time on: that of least utilisation,
    simsmoe's own."""
    ours = [row for row in results if "kernels" in row and "Mixtral" not in row["name"]]
    if not ours:
        return
    slowest = min(ours, key=lambda row: row.get("mfu", 0.0))
    print(f"\n{slowest['name']}: the {TOP} dearest kernels of a step (* products)")
    for kernel in slowest["kernels"]:
        mark = "*" if kernel["product"] else " "
        print(f"{kernel['ms']:9.3f} ms {kernel['calls']:7.1f} {mark} {kernel['name'][:90]}")
    sys.stdout.flush()
