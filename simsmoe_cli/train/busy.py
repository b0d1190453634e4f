"""How long each rank works in a step, so that the slowest one is seen.

All ranks take the same time for a step, because they wait for each other. So what counts is the
time that a rank works: on a CPU that of its main thread, which sleeps while it waits; on a GPU that
of the optimizer's update, which exchanges nothing.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator

import torch

from simsmoe_cli.parallel.world import World
from simsmoe_cli.run.events import BusyRanks


class Busy:
    """Measures this rank since the last report.

    Args:
        world: the ranks; nothing is measured in one process.
        device: of this rank.
    """

    def __init__(self, world: World, device: torch.device):
        self._world, self._cuda = world, device.type == "cuda" and not world.alone
        self._since, self._steps = time.thread_time(), 0
        self._update: tuple[torch.cuda.Event, torch.cuda.Event] | None = None

    @contextlib.contextmanager
    def update(self) -> Iterator[None]:
        """The update of the weights, once a step; does not wait on the device."""
        self._steps += 1
        if not self._cuda:
            yield
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield
        end.record()
        self._update = start, end

    def report(self) -> BusyRanks | None:
        """Compare all ranks, which call it together; None in one process. Waits on the device."""
        if self._world.alone:
            return None
        milliseconds = 1000 * (time.thread_time() - self._since) / max(1, self._steps)
        if self._update is not None:
            start, end = self._update
            end.synchronize()
            milliseconds = start.elapsed_time(end)
        self._since, self._steps = time.thread_time(), 0
        all_ms = [float(of_rank) for of_rank in self._world.gather(torch.tensor([milliseconds]))]
        most = max(all_ms)
        return {
            "ranks": len(all_ms),
            "slowest": all_ms.index(most),
            "most": most,
            "median": statistics.median(all_ms),
        }
