"""The switch between the kernels written for CPUs and plain torch.

Kernels that suit a CPU's caches (tiles, rounded shapes, fp32 where bf16 is slow) do not help an
accelerator, nor torch.compile, which generates code of its own: both take plain torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_open = True


def on_cpu_path(tensor: Tensor) -> bool:
    """Whether computations with this tensor take the kernels for CPUs."""
    return _open and tensor.device.type == "cpu" and not torch.compiler.is_compiling()


@contextmanager
def as_on_accelerators() -> Iterator[None]:
    """Take plain torch on a CPU as well, to see what a GPU would keep in memory."""
    global _open
    _open = False
    try:
        yield
    finally:
        _open = True
