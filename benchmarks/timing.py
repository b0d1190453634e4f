"""Timing side by side: cases take turns in one process, so noise affects all of them equally."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Case:
    """One thing to time.

    Attributes:
        name: what the table calls it.
        run: does it once.
        work: how much of `unit` one run does; 0: only seconds are shown.
        unit: tokens, MB, GFLOP.
    """

    name: str
    run: Callable[[], object]
    work: float = 0.0
    unit: str = ""


@dataclass
class Timed:
    """What was measured of a case.

    Attributes:
        seconds: of every run, by the wall clock.
        cpu_seconds: of every run, all threads of this process.
        peak_mb: most memory of the process during one run, beyond what it held before.
    """

    name: str
    work: float
    unit: str
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mb: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        return self.work / self.median

    @property
    def cpu_rate(self) -> float:
        """Work in a second of processor time, all threads together: little affected by other
        work on the machine."""
        return self.work / statistics.median(self.cpu_seconds)


def alternate(
    cases: Sequence[Case], runs: int = 5, warm: int = 1, memory: bool = True
) -> list[Timed]:
    """Time the cases in turn, after warming each up; the peak memory is of one run more."""
    timed = [Timed(case.name, case.work, case.unit) for case in cases]
    for case in cases:
        for _ in range(warm):
            case.run()
    for _ in range(runs):
        for case, one in zip(cases, timed, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            case.run()
            one.seconds.append(time.perf_counter() - wall)
            one.cpu_seconds.append(time.process_time() - cpu)
    for case, one in zip(cases, timed, strict=True) if memory else ():
        with PeakMemory() as peak:
            case.run()
        one.peak_mb = peak.mb
    return timed


class PeakMemory:
    """The most memory this process holds inside the block, beyond what it held before it.

    Resident memory, looked at every few milliseconds by a thread: what tensors, libraries and
    allocators really take. What the allocator keeps of freed tensors goes back to the system first.
    `mb` is there afterwards.
    """

    mb = 0.0

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)
        self._start = _resident_mb()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.mb = max(self.mb, _resident_mb() - self._start)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def report(title: str, timed: Sequence[Timed], baseline: str) -> dict[str, Any]:
    """Print a table, each case as a ratio of the baseline's speed, and give it as data.

    Args:
        baseline: name of the case that has ratio 1. Above 1 is faster than it; where both say how
            much work they do, per unit of work.
    """
    base = next(one for one in timed if one.name == baseline)
    print(f"\n{title}")
    width = max(len(one.name) for one in timed)
    print(
        f"{'':{width}}  {'seconds':>9} {'min to max':>17} {'rate':>20} {'memory':>9} {'ratio':>6}"
    )
    rows = []
    for one in timed:
        ratio = one.rate / base.rate if one.work and base.work else base.median / one.median
        spread = f"{min(one.seconds):.3f} to {max(one.seconds):.3f}"
        rate = f"{one.rate:,.1f} {one.unit}/s" if one.work else ""
        print(
            f"{one.name:{width}}  {one.median:9.3f} {spread:>17} {rate:>20} "
            f"{one.peak_mb:6.0f} MB {ratio:6.2f}",
            flush=True,
        )
        rows.append(asdict(one) | {"median": one.median, "ratio": ratio})
    return {"title": title, "baseline": baseline, "cases": rows}


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
