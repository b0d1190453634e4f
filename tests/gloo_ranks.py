"""Starts gloo processes that compute together, for tests of what several ranks do."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.fsdp
import torch.distributed.tensor  # each rank would need a second to import them
import torch.multiprocessing as mp
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from tests.forked import METHOD, Ended, Forked


def on_ranks(function: Callable[..., Any], ranks: int, folder: Path, *arguments: Any) -> list[Any]:
    """What the function returned on each rank.

    Args:
        function: of a module, called with the rank and the arguments in a process group of all
            ranks; returns tensors, in dicts and lists.
        ranks: how many processes.
        folder: an empty one, for their files.
    """
    mp.start_processes(
        _run, (function, ranks, str(folder), arguments), nprocs=ranks, start_method=METHOD
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


def command_on_ranks(ranks: int, folder: Path, arguments: Sequence[str]) -> list[Ended]:
    """Run a command line of simsmoe on ranks, each of which has the environment of torchrun's.

    Args:
        ranks: how many processes.
        folder: for what they print.
        arguments: of the command line.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = [
        Forked(arguments, folder / str(rank), **place_of(rank, ranks, store.port))
        for rank in range(ranks)
    ]
    return [command.ended() for command in started]


def place_of(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets, whose store listens on a port."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    agent = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": port}
    return {name: str(value) for name, value in {**place, **agent}.items()}


def as_rank(rank: int, ranks: int, port: int) -> None:
    """Set the variables that torchrun sets, whose store listens on a port."""
    os.environ.update(place_of(rank, ranks, port))
    torch.set_num_threads(1)
