"""A model on several ranks: FSDP2 shards its weights; gradients are summed, measured and clipped.

Each sub-layer is one unit: its weights are gathered before it computes, forward and backward, and
its gradients are summed over ranks (torch.distributed.fsdp.fully_shard). A parameter is then a
DTensor with its own name and whole shape, of which each rank holds a part; so is its gradient and
its optimizer state. Under expert parallelism the experts of a layer are a unit of their own: they
are divided among the ranks of `World.expert` for good, and each share among the other ranks.
Buffers, and the few parameters of `_left_whole`, are whole on every rank.

A model of transformers is one unit, whose weights stay gathered from the forward to the end of the
backward pass: similarity learning runs its experts between the two. Each rank has room for all of
its weights then, and for its part of gradients and optimizer state.

Gradients are summed, not averaged, because the losses of the ranks are parts of one sum (loss.py).

FSDP2 and DTensor are imported only where there are several ranks, since that takes seconds.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from simsmoe_cli.huggingface.wrapped import Wrapped
from simsmoe_cli.model.blocks import SubLayer
from simsmoe_cli.model.interface import MoEModel
from simsmoe_cli.model.language_model import Backbone
from simsmoe_cli.moe.routers.base import Router
from simsmoe_cli.parallel.shard_dim import shard_dim
from simsmoe_cli.parallel.sharded import local, sharded
from simsmoe_cli.parallel.world import World, ranks, sum_over_ranks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import Shard

T = TypeVar("T", bound=Tensor)


def shard(model: MoEModel, world: World) -> None:
    """Divide a model among ranks, in place; does nothing in one process.

    All ranks take the values of the first.
    """
    if world.alone:
        return
    from torch.distributed.fsdp import fully_shard

    # It warns of in-place operations on what a layer returns, and there are none.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    # It tells programmers which exchanges could be merged.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    for tensor in (*model.parameters(), *model.buffers()):
        # As bytes, since gloo does not know every type.
        dist.broadcast(tensor.detach().reshape(-1).view(torch.uint8), 0)
    if isinstance(model, Wrapped):
        fully_shard(
            model.body,
            mesh=world.sharding,
            reshard_after_forward=False,
            shard_placement_fn=_placement(world.sharding),
            ignored_params=set(_left_whole(model.body)),
        )
    else:
        _shard_layers(model, world)
    for module in _units(model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def _shard_layers(model: MoEModel, world: World) -> None:
    """Divide a model of ours: each sub-layer is a unit."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    assert isinstance(model, Backbone)
    if world.expert is not None:
        for moe in model.moe_layers:
            moe.experts.spread(world.expert)
            mesh = world.expert_sharding
            fully_shard(moe.experts, mesh=mesh, shard_placement_fn=_placement(mesh))
    whole, placement = set(_left_whole(model)), _placement(world.sharding)
    options: dict[str, Any] = {"shard_placement_fn": placement, "ignored_params": whole}
    for layer in model.layers:
        assert isinstance(layer, SubLayer)
        fully_shard(layer, mesh=world.sharding, **options)
        for method in ("attend", "mix", "feed_forward", "dense"):
            register_fsdp_forward_method(layer, method)
    fully_shard(model, mesh=world.sharding, **options)
    register_fsdp_forward_method(model, "encode")


def _placement(mesh: DeviceMesh) -> Callable[[nn.Parameter], Shard]:
    """Which dimension of a parameter is divided among the ranks of a mesh."""
    from torch.distributed.tensor import Shard

    def placement(parameter: nn.Parameter) -> Shard:
        divided = sharded(parameter) is not None
        return Shard(shard_dim(local(parameter).shape, mesh.shape[-1], divided=divided))

    return placement


def _left_whole(model: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters that every rank holds whole: numbers, which cannot be divided, and those that a
    router changes while it computes."""
    for module in model.modules():
        changed = module.changed_in_forward if isinstance(module, Router) else ()
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 0 or name in changed:
                yield parameter


def _units(model: nn.Module) -> Iterator[FSDPModule]:
    from torch.distributed.fsdp import FSDPModule

    return (module for module in model.modules() if isinstance(module, FSDPModule))


def let_go(model: nn.Module) -> None:
    """Free gathered weights: from now on parameters are the sharded ones.

    To be called after a computation without backward pass, before parameters are read or changed.
    """
    if ranks() == 1:
        return
    for module in _units(model):
        module.reshard()


def sum_whole_gradients(model: nn.Module) -> None:
    """Sum over ranks the gradients that FSDP2 does not: those of parameters every rank holds
    whole."""
    grads = [
        parameter.grad
        for parameter in model.parameters()
        if parameter.grad is not None and sharded(parameter) is None
    ]
    if grads:
        total = sum_over_ranks(torch.cat([grad.flatten() for grad in grads]))
        for grad, part in zip(grads, total.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))


def total_norm(grads: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients together, over all ranks. Costs one exchange of one number."""
    squares = [
        torch.nn.utils.get_total_norm([local(grad) for grad in group]).double().square()
        / _copies(group[0])
        for group in one_mesh_each(grads)
    ]
    return sum_over_ranks(torch.stack(squares).sum()).sqrt().float()


def _copies(tensor: Tensor) -> int:
    """How many ranks hold each value of a tensor."""
    part = sharded(tensor)
    if part is None:
        return ranks()
    sizes = (
        part.device_mesh.size(dim) for dim, p in enumerate(part.placements) if p.is_replicate()
    )
    return math.prod(sizes)


def scale(grads: Iterable[Tensor], factor: Tensor) -> None:
    """Multiply gradients in place."""
    for grad in grads:
        local(grad).mul_(factor)


def one_mesh_each(tensors: Iterable[T]) -> list[list[T]]:
    """Tensors in lists that lie on the same ranks, as operations on many tensors need them."""
    found: dict[object, list[T]] = {}
    for tensor in tensors:
        part = sharded(tensor)
        found.setdefault(None if part is None else part.device_mesh, []).append(tensor)
    return list(found.values())
