"""Chooses the precision of a training or an evaluation if `train.precision` is `auto`.

A GPU that supports bf16 is far faster with it. A CPU may have instructions for bf16 and still be
slower with them than in fp32, so on a CPU a typical matrix product is timed in both.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import torch

# bf16 casts weights and activations in every layer, so it has to be worth it.
WORTH_IT = 1.5
ROWS, INNER, COLUMNS, RUNS = 1024, 256, 1024, 7
FINE_SECONDS = 1e-5


@dataclass(frozen=True)
class Precision:
    """A chosen precision.

    Attributes:
        name: "fp32" or "bf16".
        why: the reason, in words.
    """

    name: str
    why: str


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision of a recipe, with "auto" decided."""
    return choose_precision(device).name if precision == "auto" else precision


def choose_precision(device: torch.device) -> Precision:
    """The precision that "auto" selects on a device."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16", "the GPU computes it")
        return Precision("fp32", "the GPU does not compute bf16")
    if device.type == "cpu" and cpu_bf16():
        gain = bf16_gain()
        name = "bf16" if gain >= WORTH_IT else "fp32"
        return Precision(name, f"matrix products in bf16 are {gain:.1f} times as fast here")
    return Precision("fp32", "bf16 is not computed here")


def cpu_bf16() -> list[str]:
    """The instructions for bf16 this CPU has."""
    capabilities = torch.cpu.get_capabilities()
    known = ("avx512_bf16", "amx_bf16", "bf16")
    return [name for name in known if capabilities.get(name)]


@functools.cache
def bf16_gain() -> float:
    """Time of a matrix product in fp32 divided by its time in bf16, on this CPU.

    Both are the fastest of a few short alternating runs of one thread, in processor time: by the
    clock, other work on the machine could make either look many times slower (LOG.md). Takes about
    50 ms, once per process.
    """
    # Where that clock is too coarse, as on Windows, the wall clock has to do.
    fine = time.get_clock_info("thread_time").resolution < FINE_SECONDS
    clock = time.thread_time if fine else time.perf_counter
    threads = torch.get_num_threads()
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    operands = {
        kind: (torch.ones(ROWS, INNER, dtype=kind), torch.ones(INNER, COLUMNS, dtype=kind))
        for kind in best
    }
    torch.set_num_threads(1)
    try:
        for _ in range(RUNS):
            for kind, (left, right) in operands.items():
                start = clock()
                torch.mm(left, right)
                best[kind] = min(best[kind], clock() - start)
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] / best[torch.bfloat16]


def device_in_words(precision: str, device: torch.device) -> str:
    """Device and precision of a new training, for its first line: "cpu, in fp32 (...)"."""
    if precision != "auto":
        return f"{device}, in {precision}"
    choice = choose_precision(device)
    probed = device.type == "cpu" and cpu_bf16()
    return f"{device}, in {choice.name}" + (f" ({choice.why})" if probed else "")
