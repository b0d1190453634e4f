"""Training steps, of simsmoe and of transformers' Mixtral, and where their time goes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_cases.bench import Bench, Figures
from benchmarks.step import mixtral
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from simsmoe_cli.train.optim import build_optimizer

# Kernels and operators that multiply matrices; attention counts as one. What inductor writes is
# named after all it fuses, and its products are templates.
FUSED, TEMPLATE = "triton_", "triton_tem_"
PRODUCT = re.compile(
    r"gemm|gemv|nvjet|cutlass|xmma|wgmma|flash|fmha|attention|_mm\b|::mm$|::bmm$|addmm",
    re.IGNORECASE,
)
TOP = 25


def make_trainer(bench: Bench, recipe: Recipe, compiled: str) -> Trainer[Any]:
    with bench.device:  # A CPU would take seconds for a billion random numbers.
        objective = LanguageModelling(recipe, bench.store, bench.device)
    bench.trainers += 1
    run = Trainer(objective, RunDir(bench.folder / f"run-{bench.trainers}"))
    if compiled in ("whole", "graphs"):
        run.stepper.loss = bench.compile(objective.loss, cuda_graphs=compiled == "graphs")
    elif compiled == "layers":
        for layer in objective.model.layers:
            for name in ("attend", "mix", "feed_forward"):
                setattr(layer, name, bench.compile(getattr(layer, name)))
    return run


def training(bench: Bench, recipe: Recipe, compiled: str, *, kernels: bool = False) -> Figures:
    """A training step of a recipe; `compiled` is "", "whole", "layers" or "graphs"."""
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
