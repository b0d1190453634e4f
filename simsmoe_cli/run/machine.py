"""What a training takes of its machine, for train events: processors and memory.

It is that of one process, the one that writes the events, and of its GPU. Nothing here waits on the
device: memory is asked of the driver, utilisation of NVML.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from simsmoe_cli.run.events import Machine

_STATM = Path("/proc/self/statm")


class MachineMeter:
    """Measures this process between two reports.

    Args:
        device: that it computes on.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._asks_nvml = device.type == "cuda"
        self._since = time.perf_counter(), time.process_time()

    def report(self) -> Machine:
        """The numbers since the last report; those that the system does not say are left out."""
        before, used = self._since
        self._since = now, cpu = time.perf_counter(), time.process_time()
        found: Machine = {"cpu_percent": round(100 * (cpu - used) / max(1e-9, now - before))}
        if memory := resident_bytes():
            found["ram_mb"] = round(memory / 1e6)
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            found["gpu_mb"] = round((total - free) / 1e6)
            found["gpu_total_mb"] = round(total / 1e6)
            if (percent := self._utilisation()) is not None:
                found["gpu_percent"] = percent
        return found

    def _utilisation(self) -> int | None:
        """Percent of the time in which the GPU computed, as nvidia-smi shows it; None without the
        package nvidia-ml-py, or where the GPU does not say, as a part of one (MIG) does not."""
        if self._asks_nvml:
            try:
                return torch.cuda.utilization(self._device)
            except Exception:
                # NVML has error classes of its own, and none of them may stop a training.
                self._asks_nvml = False
        return None


def resident_bytes() -> int:
    """Memory that this process takes now; 0 where the system does not say."""
    try:
        pages = int(_STATM.read_text(encoding="utf-8").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
