"""A mode under which whatever waits on the device fails."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result the host reads, or whose shape depends on values.
WAITING = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::nonzero_numpy",
    "aten::masked_select",
    "aten::is_nonzero",
    "aten::item",
    "aten::equal",
    "aten::bincount",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::repeat_interleave.Tensor",
    "aten::allclose",
}


class NoWaiting(TorchDispatchMode):
    """Fails on any operator that would wait on the device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name()
        if name in WAITING or name.removesuffix(".default") in WAITING:
            raise AssertionError(f"{name} waits on the device")
        if name.startswith("aten::index.") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        ):
            raise AssertionError("indexing by a mask waits on the device")
        return func(*args, **(kwargs or {}))
