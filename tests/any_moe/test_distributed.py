"""attach under DDP and FSDP2: two processes give the gradient of the mean of both batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from simsmoe_cli.any_moe.handle import attach
from tests.any_moe.by_hand import EVERYTHING, batch, by_hand, loss_of, made, require_equal
from tests.gloo_ranks import on_ranks

RANKS = 2


def trained(rank: int, kind: str, model_type: str) -> dict[str, Any]:
    """The gradients and metrics of a step with a batch of each rank's own."""
    model: nn.Module = made(model_type)
    if kind == "fsdp2":
        mesh = init_device_mesh("cpu", (RANKS,))
        for layer in model.model.layers:  # type: ignore[union-attr]
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        model = DistributedDataParallel(model)
    handle = attach(model, EVERYTHING, probe_every=1)
    loss_of(model, batch(rank)).backward()
    handle.step()
    found: dict[str, torch.Tensor] = {}
    for name, part in model.named_parameters():
        if part.grad is not None:
            grad = part.grad.full_tensor() if isinstance(part.grad, DTensor) else part.grad
            found[name.removeprefix("module.")] = grad
    metrics = handle.metrics()
    dist.barrier()
    return {"gradients": found, "metrics": metrics}


@pytest.mark.parametrize(("kind", "model_type"), [("ddp", "mixtral"), ("fsdp2", "qwen3_moe")])
def test_two_processes(kind: str, model_type: str, tmp_path: Path) -> None:
    expected = by_hand(made(model_type), [batch(0), batch(1)], at_once=True)
    for found in on_ranks(trained, RANKS, tmp_path, kind, model_type):
        require_equal(found["gradients"], expected)
        assert found["metrics"]["layer_0/load_max"] >= 1
