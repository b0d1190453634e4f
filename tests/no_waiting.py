"""A mode under which whatever waits on the device fails."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from simsmoe_cli.kernels.cpu import as_on_accelerators

# Operators whose result the host reads, or whose shape depends on values.
WAITING = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::nonzero_numpy",
    "aten::nonzero_static",
    "aten::argwhere",
    "aten::histc",
    "aten::masked_select",
    "aten::is_nonzero",
    "aten::item",
    "aten::equal",
    "aten::bincount",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::repeat_interleave.Tensor",
    "aten::repeat_interleave.self_Tensor",
    "aten::allclose",
}


class NoWaiting(TorchDispatchMode):
    """Fails on any operator that would wait on the device, on the path that accelerators take."""

    def __enter__(self) -> NoWaiting:
        self._path = as_on_accelerators()
        self._path.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._path.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name()
        if (kwargs or {}).get("output_size") is not None:  # repeat_interleave need not ask for it
            return func(*args, **(kwargs or {}))
        if name in WAITING or name.removesuffix(".default") in WAITING:
            raise AssertionError(f"{name} waits on the device")
        if name.startswith(("aten::index.", "aten::index_put")) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        ):
            raise AssertionError("indexing by a mask waits on the device")
        return func(*args, **(kwargs or {}))
