"""Tensors of which each rank holds a part (DTensor), read and written as whole ones.

DTensor is not imported here, since that takes seconds: one process has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def sharded(tensor: Tensor) -> DTensor | None:
    """The tensor if each rank holds a part of it; None if every rank holds all of it."""
    return cast("DTensor", tensor) if hasattr(tensor, "full_tensor") else None


def whole(tensor: Tensor) -> Tensor:
    """The values on all ranks together; all ranks must call it."""
    part = sharded(tensor)
    return tensor if part is None else part.full_tensor()


def local(tensor: Tensor) -> Tensor:
    """The values on this rank."""
    part = sharded(tensor)
    return tensor if part is None else part.to_local()


def divided_as(values: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every rank has, divided among ranks as `like` is, on its device."""
    part = sharded(like)
    if part is None:
        return values.to(like.device)
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    assert values.shape == part.shape
    sizes, starts = compute_local_shape_and_global_offset(
        part.shape, part.device_mesh, part.placements
    )
    own = values
    for dim, (size, start) in enumerate(zip(sizes, starts, strict=True)):
        own = own.narrow(dim, start if size else 0, size)
    divided: Tensor = DTensor.from_local(
        own.to(like.device).contiguous(),
        part.device_mesh,
        part.placements,
        run_check=False,
        shape=part.shape,
        stride=part.stride(),
    )
    return divided
