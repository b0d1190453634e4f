"""Keeps the memory of freed tensors for the next tensors, for training on a CPU.

By default glibc returns large blocks to the system as soon as they are freed. The next tensor then
gets new pages, and the system clears each at its first touch. A training step frees and allocates
the same gigabytes every time, and would spend an eighth of its time on that (LOG.md).
"""

from __future__ import annotations

import ctypes
import os
import platform

import torch

# From malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER = -1
STEP = 256 * 2**20


def keep_freed_memory(device: torch.device) -> None:
    """Keep freed memory for the rest of this process, if it computes on a CPU and uses glibc.

    Does nothing where the environment sets the allocator (MALLOC_..., GLIBC_TUNABLES).
    """
    ours = platform.libc_ver()[0] == "glibc"
    theirs = [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]
    if device.type != "cpu" or not ours or theirs:
        return
    libc = ctypes.CDLL(None)
    for option, value in ((M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, STEP), (M_MMAP_MAX, 0)):
        libc.mallopt(option, value)
