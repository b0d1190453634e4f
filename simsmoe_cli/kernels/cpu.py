"""The switch between the kernels written for CPUs and plain torch.

The kernels for CPUs (tiles that fit the caches, rounded shapes, fp32 where bf16 is slow) do not
help an accelerator or torch.compile, which generates its own code. Both use plain torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_open = True


def on_cpu_path(tensor: Tensor) -> bool:
    """Whether computations with this tensor use the kernels for CPUs."""
    return _open and tensor.device.type == "cpu" and not torch.compiler.is_compiling()


@contextmanager
def as_on_accelerators() -> Iterator[None]:
    """Use plain torch on a CPU as well, to measure the memory that a GPU would need."""
    global _open
    _open = False
    try:
        yield
    finally:
        _open = True
