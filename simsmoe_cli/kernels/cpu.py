"""Where a CPU has a path of its own through the engine, and how to go round it.

What suits a CPU's caches and kernels (tiles, rounded shapes, fp32 where bf16 is slow) is of no use
to an accelerator, nor under torch.compile, which makes code of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_open = True


def on_cpu_path(tensor: Tensor) -> bool:
    """Whether what computes with this tensor takes the path for CPUs."""
    return _open and tensor.device.type == "cpu" and not torch.compiler.is_compiling()


@contextmanager
def as_on_accelerators() -> Iterator[None]:
    """Take the other path on a CPU as well: what it keeps is what a GPU must hold."""
    global _open
    _open = False
    try:
        yield
    finally:
        _open = True
