"""Training on a GPU: against the card's own limits, and against transformers' Mixtral.

    python -m benchmarks.run gpu [--minutes 7] [--json FILE] [--only REGEX]

Cases run in the order of their importance until the time is up; the others are reported as not run.
A case that fails is reported with its error, and the next one runs. Every case times what
`simsmoe pretrain` does in a step (train/loop.py): read, copy, forward, backward, clip, update.

MFU: model FLOPs, as --dry-run counts them (model/size.py), over the rate of one large bf16 product
measured in the same run. "Outside products" is the share of a step's time in which no matrix
product and no attention kernel runs, idle time included.

Compiled: "whole" is train.compile (one graph), "layers" compiles what a sub-layer does, once for
each kind, which takes far less time to compile.

`--tiny` is everything in small, on any device, to see that it works.
"""

from __future__ import annotations

import gc
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.step import mixtral
from benchmarks.text import standard_library
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.generation.sampling import Reader, Sampling, generate
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.model.size import ModelSize, measure
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from simsmoe_cli.train.optim import build_optimizer
from simsmoe_cli.train.probes import probe

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
# Kernels and operators that multiply matrices; attention counts as one. What inductor writes is
# named after all it fuses, and its products are templates.
FUSED, TEMPLATE = "triton_", "triton_tem_"
PRODUCT = re.compile(
    r"gemm|gemv|nvjet|cutlass|xmma|wgmma|flash|fmha|attention|_mm\b|::mm$|::bmm$|addmm",
    re.IGNORECASE,
)
TOP = 25
EXPERT_COUNTS = (8, 16, 32, 64, 128)
PEAK = "dense bf16 product"


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

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        compiled: Callable[..., Any] = torch.compile(
            function, backend="eager" if self.tiny else "inductor"
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


# The card's limits


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


# Training steps


def make_trainer(bench: Bench, recipe: Recipe, compiled: str) -> Trainer[Any]:
    with bench.device:  # A CPU would take seconds for a billion random numbers.
        objective = LanguageModelling(recipe, bench.store, bench.device)
    bench.trainers += 1
    run = Trainer(objective, RunDir(bench.folder / f"run-{bench.trainers}"))
    if compiled == "whole":
        run.stepper.loss = bench.compile(objective.loss)
    elif compiled == "layers":
        for layer in objective.model.layers:
            for name in ("attend", "mix", "feed_forward"):
                setattr(layer, name, bench.compile(getattr(layer, name)))
    return run


def training(bench: Bench, recipe: Recipe, compiled: str, *, kernels: bool = False) -> Figures:
    """A training step of a recipe; `compiled` is "", "whole" or "layers"."""
    run = make_trainer(bench, recipe, compiled)
    return measured(bench, run.step, recipe, kernels=kernels)


def mixtral_training(bench: Bench, recipe: Recipe, compiled: str) -> Figures:
    """The same of transformers' Mixtral, its weights in bf16: its grouped product ignores
    autocast, and fp32 would be far slower."""
    train = recipe.train
    torch.manual_seed(0)
    with bench.device:
        model = mixtral(recipe, bench.vocabulary).to(torch.bfloat16).train()
    optimizer = build_optimizer(model, train)
    call = bench.compile(model) if compiled else model
    size = (train.batch, train.block)
    inputs = torch.randint(bench.vocabulary, size, device=bench.device)

    def step() -> None:
        call(input_ids=inputs, labels=inputs, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return measured(bench, step, recipe, kernels=True)


def measured(
    bench: Bench, step: Callable[[], object], recipe: Recipe, *, kernels: bool = False
) -> Figures:
    """Rate, utilisation and memory of a step, and with `kernels` where its time goes."""
    start = time.perf_counter()
    step()
    bench.synchronize()
    first = time.perf_counter() - start
    for _ in range(1 if bench.tiny else 4):
        step()
    bench.synchronize()
    ready = time.perf_counter() - start
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds, times = bench.seconds(step, 2.0)
    size = bench.size(recipe)
    rate = recipe.train.batch * recipe.train.block / seconds
    found: Figures = {
        "tokens_per_s": rate,
        "step_ms": 1000 * seconds,
        "tflops": rate * size.training_flops_per_token / 1e12,
        "first_step_s": first,
        "ready_s": ready,
        "timed_steps": times,
        "predicted_gib": size.training_bytes / 2**30,
    }
    if bench.peak_tflops:
        found["mfu"] = found["tflops"] / bench.peak_tflops
    if bench.device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        found["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    if kernels:
        found |= where_time_goes(bench, step, seconds)
    return found


def is_product(kernel: str) -> bool:
    """Whether a kernel or operator multiplies matrices, by its name."""
    if kernel.startswith(FUSED):
        return kernel.startswith(TEMPLATE)
    return PRODUCT.search(kernel) is not None


def where_time_goes(bench: Bench, step: Callable[[], object], seconds: float) -> Figures:
    """Kernels of three steps by the time they take, and the share of a step that no product is
    computed in."""
    on_cuda = bench.device.type == "cuda"
    steps = 1 if bench.tiny else 3
    kinds = [ProfilerActivity.CUDA] if on_cuda else [ProfilerActivity.CPU]
    with profile(activities=kinds) as recorded:
        for _ in range(steps):
            step()
        bench.synchronize()
    rows = []
    for event in recorded.key_averages():
        microseconds = event.self_device_time_total if on_cuda else event.self_cpu_time_total
        if microseconds > 0 and not getattr(event, "is_user_annotation", False):
            rows.append((event.key, microseconds / 1000 / steps, event.count / steps))
    rows.sort(key=lambda row: -row[1])
    product_ms = sum(ms for name, ms, _ in rows if is_product(name))
    return {
        "outside_products": 1 - product_ms / 1000 / seconds,
        "busy": sum(ms for _, ms, _ in rows) / 1000 / seconds,
        "kernels_a_step": sum(count for _, _, count in rows),
        "kernels": [
            {"name": name[:120], "ms": ms, "calls": count, "product": is_product(name)}
            for name, ms, count in rows[:TOP]
        ],
    }


# What is not a training step


def probing(bench: Bench, recipe: Recipe) -> Figures:
    """A probe of all layers, as a run makes them."""
    objective = LanguageModelling(recipe, bench.store, bench.device)
    tokens_BM, _ = objective.probe_batch()
    context = StepContext(step=1, total_steps=2)
    seconds, _ = bench.seconds(lambda: probe(objective.model, tokens_BM, context, "bf16"), 1.0)
    return {"seconds": seconds, "tokens": tokens_BM.numel()}


def generating(bench: Bench, recipe: Recipe) -> Figures:
    """Tokens one after the other, after a prompt of 64."""
    torch.manual_seed(0)
    with bench.device:
        model = LanguageModel(recipe, bench.vocabulary).eval()
    context = StepContext(step=1, total_steps=2)
    prompt = torch.randint(bench.vocabulary, (64,)).tolist()
    count = 4 if bench.tiny else 128

    def run() -> None:
        for _ in generate(Reader(model, context), prompt, count, Sampling(temperature=0.0)):
            pass

    seconds, _ = bench.seconds(run, 2.0)
    return {"tokens_per_s": count / seconds}


# All of it


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
        return bench.recipe("mistral-modern", *overrides, f"similarity.preset={preset}")

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
