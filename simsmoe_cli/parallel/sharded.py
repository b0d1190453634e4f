"""Tensors of which each rank holds a part (DTensor): where the part lies, and its values.

DTensor is not imported here, since that takes seconds: one process has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast

import torch.distributed as dist
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


class Bounds(NamedTuple):
    """A block of a tensor: its first index and its size in each dimension."""

    start: tuple[int, ...]
    size: tuple[int, ...]


def bounds(tensor: Tensor) -> Bounds:
    """Which block of a tensor this rank holds; the size has a 0 if it holds nothing."""
    part = sharded(tensor)
    if part is None:
        return Bounds((0,) * tensor.ndim, tuple(tensor.shape))
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    size, start = compute_local_shape_and_global_offset(
        part.shape, part.device_mesh, part.placements
    )
    return Bounds(tuple(start), tuple(size))


def divided_as(own: Tensor, like: Tensor) -> Tensor:
    """This rank's block of a tensor as a part of the whole one, divided and placed as `like` is."""
    part, own = sharded(like), own.to(like.device)
    if part is None:
        return own
    from torch.distributed.tensor import DTensor

    divided: Tensor = DTensor.from_local(
        own.contiguous(),
        part.device_mesh,
        part.placements,
        run_check=False,
        shape=part.shape,
        stride=part.stride(),
    )
    return divided


@dataclass
class OwnShare:
    """Copies in host memory of what this rank writes of named tensors.

    Every value of a tensor is written by one rank: the first of those that hold it.

    Attributes:
        tensors: blocks, by the name of their tensor.
        starts: the first index of each block in its whole tensor.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    starts: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, named: Iterable[tuple[str, Tensor]]) -> OwnShare:
        """The share of tensors that all ranks have by the same names."""
        share = cls()
        for name, tensor in named:
            if _writes(tensor):
                share.add(name, tensor)
        return share

    def add(self, name: str, tensor: Tensor) -> None:
        """Add this rank's block of a tensor."""
        self.tensors[name] = local(tensor.detach()).to("cpu", copy=True).contiguous()
        self.starts[name] = bounds(tensor).start


def _writes(tensor: Tensor) -> bool:
    """Whether this rank is the first of those that hold its block of a tensor."""
    part = sharded(tensor)
    if part is None:
        return dist.get_rank() == 0
    place = part.device_mesh.get_coordinate()
    assert place is not None
    copies = zip(part.placements, place, strict=True)
    return 0 not in bounds(tensor).size and not any(
        placement.is_replicate() and number for placement, number in copies
    )
