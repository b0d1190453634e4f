"""One of two processes that train an attached model together; started by test_distributed.py.

    python -m tests.any_moe.ranks ddp|fsdp2 MODEL_TYPE FOLDER

Each takes a batch of its own. The first writes the gradients it ends up with to FOLDER.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from simsmoe_cli.any_moe.handle import attach
from tests.any_moe.by_hand import EVERYTHING, batch, loss_of, made


def main(kind: str, model_type: str, folder: Path) -> None:
    torch.set_num_threads(1)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    model: nn.Module = made(model_type)
    if kind == "fsdp2":
        mesh = init_device_mesh("cpu", (ranks,))
        for layer in model.model.layers:  # type: ignore[union-attr]
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        model = DistributedDataParallel(model)
    handle = attach(model, EVERYTHING, probe_every=1)
    loss_of(model, batch(rank)).backward()
    handle.step()
    found = {}
    for name, part in model.named_parameters():
        if part.grad is not None:
            grad = part.grad.full_tensor() if isinstance(part.grad, DTensor) else part.grad
            found[name.removeprefix("module.")] = grad
    if rank == 0:
        torch.save({"gradients": found, "metrics": handle.metrics()}, folder / "found.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
