"""Starts gloo processes that compute together, for tests of what several ranks do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_ranks(function: Callable[..., Any], ranks: int, folder: Path, *arguments: Any) -> list[Any]:
    """What the function returned on each rank.

    Args:
        function: of a module, called with the rank and the arguments in a process group of all
            ranks; returns tensors, in dicts and lists.
        ranks: how many processes.
        folder: an empty one, for their files.
    """
    # A fork is ready at once, where a new process imports torch for seconds. CUDA forbids it.
    method = "spawn" if torch.cuda.is_available() else "fork"
    mp.start_processes(
        _run, (function, ranks, str(folder), arguments), nprocs=ranks, start_method=method
    )
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


def _run(
    rank: int, function: Callable[..., Any], ranks: int, folder: str, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    torch.save(function(rank, *arguments), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
