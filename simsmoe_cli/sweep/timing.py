"""Where the trainings of a sweep compute side by side, and how long they will take there."""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from simsmoe_cli.errors import UserError
from simsmoe_cli.sweep.run import LOGS, Training
from simsmoe_cli.sweep.side_by_side import Work, outcomes
from simsmoe_cli.sweep.training import Machine, seconds_per_step


def machines(device: str, jobs: int) -> list[Machine]:
    """Where `jobs` trainings compute side by side: threads divided, a GPU each where there are
    several."""
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        count = torch.cuda.device_count()
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        gpus = seen if len(seen) == count and seen[0] else [str(number) for number in range(count)]
        if count < 2 or ":" in device:
            return [Machine(device)] * jobs
        return [Machine(device, gpu=gpus[number % count]) for number in range(jobs)]
    threads = max(1, torch.get_num_threads() // jobs) if jobs > 1 else 0
    return [Machine(device, threads)] * jobs


def estimate_seconds(due: Sequence[Training], folder: Path, at: Sequence[Machine]) -> float:
    """How long trainings will take, from a few steps of the first on each machine.

    FLOPs are taken to cost the same time in all; evaluation and measuring are not counted.

    Args:
        due: at least one training, in the order in which they begin.
        folder: of the sweep.
        at: where trainings compute side by side.
    """
    first = due[0]
    log = folder / LOGS / "timing.log"
    job = replace(first.job, runs_dir=folder / LOGS / "timing")
    works = [Work(seconds_per_step, (job,), log) for _ in at]
    took: list[float] = []
    with contextlib.closing(outcomes(works, at)) as ended:
        for outcome in ended:
            if outcome.failure:
                raise UserError(
                    f"the timing failed: {outcome.failure}", hint=f"{log} has what it printed."
                )
            took.append(outcome.value)
    per_flop = sum(took) / len(took) / (first.cost.flops / first.cost.steps)
    return per_flop * flops_of_the_last([one.flops_due for one in due], len(at))


def flops_of_the_last(due: Sequence[float], jobs: int) -> float:
    """FLOPs until the last of several trainings ends, where each begins when one of `jobs` is free.

    Args:
        due: FLOPs of each, in their order.
        jobs: how many compute side by side.
    """
    busy = [0.0] * jobs
    for flops in due:
        heapq.heapreplace(busy, busy[0] + flops)
    return max(busy)
