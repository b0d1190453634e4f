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

import contextlib
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
from simsmoe_cli.model.language_model import Backbone, each_built
from simsmoe_cli.moe.routers.base import Router
from simsmoe_cli.parallel.shard_dim import shard_dim
from simsmoe_cli.parallel.sharded import local, sharded
from simsmoe_cli.parallel.world import World, ranks, sum_over_ranks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import Shard

T = TypeVar("T", bound=Tensor)


@contextlib.contextmanager
def sharded_as_built(world: World, device: torch.device) -> Iterator[None]:
    """Within it, a model of ours is divided while it is built, sub-layer by sub-layer, so that no
    rank has memory for more than one of them. The initial weights are those of one process."""
    if world.alone:
        yield
        return
    with each_built(lambda layer: _shard_layer(layer.to(device), world)):
        yield


def shard(model: MoEModel, world: World) -> None:
    """Divide a model among ranks, in place, or the rest of it if its sub-layers are divided
    already; does nothing in one process.

    All ranks take the values of the first.
    """
    if world.alone:
        return
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    # It warns of in-place operations on what a layer returns, and there are none.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    # It tells programmers which exchanges could be merged.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    if isinstance(model, Wrapped):
        _take_values_of_first(model)
        fully_shard(model.body, reshard_after_forward=False, **_options(model.body, world))
    else:
        assert isinstance(model, Backbone)
        for layer in model.layers:
            if not isinstance(layer, FSDPModule):
                assert isinstance(layer, SubLayer)
                _shard_layer(layer, world)
        _take_values_of_first(model, but=model.layers)
        fully_shard(model, **_options(model, world))
        register_fsdp_forward_method(model, "encode")
    for module in _units(model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def _shard_layer(layer: SubLayer, world: World) -> SubLayer:
    """Divide a sub-layer, and its experts by themselves if ranks share them."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    _take_values_of_first(layer)
    if world.expert is not None and layer.kind == "g":
        layer.moe.experts.spread(world.expert)
        mesh = world.expert_sharding
        fully_shard(layer.moe.experts, mesh=mesh, shard_placement_fn=_placement(mesh))
    fully_shard(layer, **_options(layer, world))
    for method in ("attend", "mix", "feed_forward", "dense"):
        register_fsdp_forward_method(layer, method)
    return layer


def _take_values_of_first(module: nn.Module, but: nn.Module | None = None) -> None:
    """Set parameters and buffers to those of the first rank, apart from those of a part."""
    theirs = set() if but is None else {id(x) for x in (*but.parameters(), *but.buffers())}
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) not in theirs:
            # As bytes, since gloo does not know every type.
            dist.broadcast(tensor.detach().reshape(-1).view(torch.uint8), 0)


def _options(module: nn.Module, world: World) -> dict[str, Any]:
    """How FSDP2 divides a module."""
    return {
        "mesh": world.sharding,
        "shard_placement_fn": _placement(world.sharding),
        "ignored_params": set(_left_whole(module)),
    }


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
