"""The processes that train together, and sums over them.

Everything here does nothing in one process: there is no process group then, and the sums return
what they were given. Every rank computes a part of each batch, so a number that decides for all
(a load, a count of pairs, a loss) is a sum over all ranks.

`sum_over_ranks` and `ranks` look at torch.distributed alone, so they also work in a training loop
that is not ours (any_moe). `World` is what our own training knows beside that.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout

from simsmoe_cli.parallel.launch import Launch
from simsmoe_cli.recipe.parallel import Layout

REPLICATE, SHARD, BEYOND_EXPERT, EXPERT = "replicate", "shard", "beyond_expert", "expert"


def ranks() -> int:
    """How many processes train together; 1 without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return 1


def first() -> bool:
    """Whether this process is the first of those that train together, or the only one."""
    return ranks() == 1 or dist.get_rank() == 0


@torch.no_grad()
def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of the ranks' tensors of one shape, without gradient; in one process the tensor
    itself."""
    if ranks() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def differentiable_sum(tensor: Tensor) -> Tensor:
    """As `sum_over_ranks`, with gradient.

    Every rank uses the sum, so the gradient of a rank's tensor is the sum of what the ranks send
    back. A loss that all ranks compute from it must be divided among them, so that it counts once.
    """
    return tensor if ranks() == 1 else _sum(tensor)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return sum_over_ranks(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return sum_over_ranks(grads[0].contiguous())


_sum: Any = _Sum.apply


@dataclass(frozen=True)
class World:
    """The ranks of a training, in a grid; all defaults are those of one process.

    Attributes:
        rank, size: number of this rank, and of all.
        layout: sizes of the grid.
        grid: the ranks as [replicate, shard]; None in one process.
        expert_grid: the same as [replicate, beyond_expert, expert], where the last two divide
            `shard`; None where each rank has all experts.
        writing: of all ranks, for the threads that write checkpoints; None in one process.
    """

    rank: int = 0
    size: int = 1
    layout: Layout = field(default_factory=Layout)
    grid: DeviceMesh | None = None
    expert_grid: DeviceMesh | None = None
    writing: dist.ProcessGroup | None = None

    @property
    def alone(self) -> bool:
        """Whether there is one process only."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this rank writes for all."""
        return self.rank == 0

    @property
    def sharding(self) -> DeviceMesh:
        """The mesh over which FSDP2 divides weights: [shard], or [replicate, shard] for HSDP."""
        assert self.grid is not None
        return self.grid if self.layout.replicate > 1 else self.grid[SHARD]

    @property
    def expert_sharding(self) -> DeviceMesh:
        """As `sharding`, for the weights of experts that are divided over `expert` first."""
        assert self.expert_grid is not None
        if self.layout.replicate > 1:
            return self.expert_grid[REPLICATE, BEYOND_EXPERT]
        return self.expert_grid[BEYOND_EXPERT]

    @property
    def expert(self) -> DeviceMesh | None:
        """The ranks that divide the experts of a layer; None where each rank has all of them."""
        return None if self.expert_grid is None else self.expert_grid[EXPERT]

    def part(self, rows: int) -> slice:
        """This rank's part of the rows of a micro-batch; sizes differ by one at most."""
        return slice(self.rank * rows // self.size, (self.rank + 1) * rows // self.size)

    def wait(self) -> None:
        """Return when all ranks have called this."""
        if not self.alone:
            dist.all_reduce(torch.zeros(1))

    def from_first(self, number: float) -> float:
        """The first rank's number, so that all ranks decide the same by it."""
        if self.alone:
            return number
        value = torch.tensor([number], dtype=torch.float64)
        dist.broadcast(value, 0)
        return value.item()

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        if self.alone:
            return number
        value = torch.tensor([number])
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value.item())

    def gather(self, tensor: Tensor, rows: int | None = None) -> list[Tensor]:
        """The tensors of all ranks, in the order of ranks, on the CPU.

        Args:
            tensor: of one shape on all ranks, or of this rank's `part` of rows.
            rows: of all ranks together, if each has a part.
        """
        if self.alone:
            return [tensor]
        tensor = tensor.detach().cpu()
        most = tensor.shape[0] if rows is None else -(-rows // self.size)
        padded = tensor.new_zeros(most, *tensor.shape[1:])
        padded[: tensor.shape[0]] = tensor
        found = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(found, padded)
        if rows is None:
            return found
        bounds = [rank * rows // self.size for rank in range(self.size + 1)]
        return [
            part[: stop - start]
            for part, start, stop in zip(found, bounds, bounds[1:], strict=False)
        ]


ALONE = World()


class Votes:
    """The largest number that any rank has named, known one call later without waiting for it.

    Args:
        world: all of its ranks make the same calls.
    """

    def __init__(self, world: World):
        self.alone = world.alone
        self._world = world
        self._open: tuple[dist.Work, Tensor] | None = None

    def next(self, number: int) -> int:
        """Name a number; returns the largest of the call before, 0 at first."""
        known = self._close()
        if not self.alone:
            value = torch.tensor([number])
            work = dist.all_reduce(value, dist.ReduceOp.MAX, async_op=True)
            assert work is not None
            self._open = work, value
        return known

    def now(self, number: int) -> int:
        """The largest number that any rank names now, or named in the call before."""
        return max(self._close(), self._world.largest(number))

    def _close(self) -> int:
        if self._open is None:
            return 0
        (work, value), self._open = self._open, None
        work.wait()
        return int(value.item())


def join(
    launched: Launch,
    device: torch.device,
    layout: Layout,
    timeout_s: float,
    store: PrefixStore | None = None,
) -> World:
    """Form the process group, unless there is one; returns when all ranks have joined.

    Args:
        launched: the place of this process.
        device: of this rank.
        layout: the grid of ranks.
        timeout_s: how long a rank waits for the others, here and in every exchange.
        store: where the ranks find each other; not needed where there is a process group.
    """
    if launched.alone:
        return ALONE
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    timeout = datetime.timedelta(seconds=timeout_s)
    if not dist.is_initialized():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            timeout=timeout,
            store=store,
            rank=launched.rank,
            world_size=launched.size,
            device_id=device if cuda else None,
        )
    replicate, shard, expert = layout.replicate, layout.shard, layout.expert
    grid = init_device_mesh(device.type, (replicate, shard), mesh_dim_names=(REPLICATE, SHARD))
    expert_grid = None
    if expert > 1:
        expert_grid = init_device_mesh(
            device.type,
            (replicate, shard // expert, expert),
            mesh_dim_names=(REPLICATE, BEYOND_EXPERT, EXPERT),
        )
    for mesh in (grid, expert_grid):
        for group in () if mesh is None else mesh.get_all_groups():
            _set_pg_timeout(timeout, group)  # that of its parent is not inherited
    writing = dist.new_group(backend="gloo", timeout=timeout)
    return World(launched.rank, launched.size, layout, grid, expert_grid, writing)


def leave(world: World) -> None:
    """Leave the process group, if there is one."""
    if not world.alone:
        dist.destroy_process_group()
