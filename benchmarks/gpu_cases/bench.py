"""What all cases of `benchmarks.gpu` share: device, text, recipes, and the clock."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.text import standard_library
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.model.size import ModelSize, measure
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe

Figures = dict[str, Any]

WIDE = [
    "model.width=1024", "model.heads=16", "model.repeats=8",
    "moe.experts=32", "moe.hidden=1024", "moe.top_k=4",
]  # fmt: skip
TINY = [
    "model.width=16", "model.heads=2", "model.repeats=1", "model.span=12",
    "moe.hidden=16", "train.batch=2", "train.block=16", "train.probe_tokens=32",
]  # fmt: skip
TINY_ONLY = {"mistral-modern": ["eval.overlap=8"], "brainformer-large": ["model.ffn_hidden=16"]}


@dataclass
class Bench:
    """What all cases share.

    Attributes:
        device: where everything runs.
        tiny: everything in small, compiled by no compiler.
        folder: for a corpus and run folders.
        peak_tflops: of one large bf16 product, once it was measured.
        trainers: how many were made.
        sizes: of the models measured, by their recipes.
        store: the text that is read.
    """

    device: torch.device
    tiny: bool
    folder: Path
    peak_tflops: float | None = None
    trainers: int = 0
    sizes: dict[str, ModelSize] = field(default_factory=dict)
    store: TokenStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = standard_library(self.folder, 200_000 if self.tiny else 4_000_000)

    @property
    def vocabulary(self) -> int:
        return self.store.manifest.vocab_size

    def recipe(self, name: str, *overrides: str) -> Recipe:
        """A recipe in bf16, without similarity learning unless told otherwise."""
        small = [*TINY, *TINY_ONLY.get(name, [])] if self.tiny else []
        fixed = ["similarity.preset=none", "train.precision=bf16", "train.compile=off"]
        wanted = [o for o in overrides if not (self.tiny and o in WIDE)]
        return load_recipe(name, [*fixed, *wanted, *small])

    def size(self, recipe: Recipe) -> ModelSize:
        """What --dry-run says."""
        key = recipe.model_dump_json()
        if key not in self.sizes:
            self.sizes[key] = measure(recipe, self.vocabulary)
        return self.sizes[key]

    def compile(
        self, function: Callable[..., Any], *, cuda_graphs: bool = False
    ) -> Callable[..., Any]:
        compiled: Callable[..., Any] = torch.compile(
            function,
            backend="eager" if self.tiny else "inductor",
            mode="reduce-overhead" if cuda_graphs and not self.tiny else None,
        )
        return compiled

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], object], least: float) -> tuple[float, int]:
        """Seconds of one run, the median of three bursts that take `least` seconds in all, and how
        many runs were timed."""
        start = time.perf_counter()
        run()
        self.synchronize()
        once = time.perf_counter() - start
        if self.tiny:
            return once, 1
        times = max(1, round(least / 3 / max(once, 1e-6)))
        bursts = []
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(times):
                run()
            self.synchronize()
            bursts.append((time.perf_counter() - start) / times)
        return sorted(bursts)[1], 3 * times

    def forget(self) -> None:
        """Give everything back that a case held."""
        torch._dynamo.reset()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
