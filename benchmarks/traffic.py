"""What ranks send to each other: every collective inside a block, its bytes, and its time alone.

    with Traffic() as traffic:
        step()
    traffic.sent_bytes   # by kind of collective
    traffic.replay()     # the same collectives again, with nothing to compute between them

Bytes are what one rank sends to others: its rows in an all-to-all, and in the ring algorithm
(g-1)/g of what g ranks gather or reduce, twice that in an all-reduce.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.utils._python_dispatch import TorchDispatchMode

GATHER, SCATTER, REDUCE, EXCHANGE = "all-gather", "reduce-scatter", "all-reduce", "all-to-all"
KINDS = {
    "c10d._allgather_base_.default": GATHER,
    "c10d._reduce_scatter_base_.default": SCATTER,
    "c10d.allreduce_.default": REDUCE,
    "_c10d_functional.all_to_all_single.default": EXCHANGE,
}


class Traffic(TorchDispatchMode):
    """Notes the collectives of a block of code, backward passes included.

    Attributes:
        sent_bytes: by kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent_bytes: dict[str, int] = defaultdict(int)
        self._calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kind = KINDS.get(str(func))
        if kind is not None:
            self.sent_bytes[kind] += _sent(kind, args)
            self._calls.append((func, _kept(args), kwargs or {}))
        return func(*args, **(kwargs or {}))

    def replay(self) -> dict[str, float]:
        """Seconds that the same collectives take alone, by kind; all ranks call it."""
        seconds: dict[str, float] = defaultdict(float)
        for func, args, kwargs in self._calls:
            start = time.perf_counter()
            _wait(func(*args, **kwargs))
            seconds[KINDS[str(func)]] += time.perf_counter() - start
        return dict(seconds)


def _sent(kind: str, args: tuple[Any, ...]) -> int:
    if kind == GATHER:
        whole, part = args[0], args[1]
        return _bytes(whole) - _bytes(part)
    if kind == SCATTER:
        part, whole = args[0], args[1]
        return _bytes(whole) - _bytes(part)
    if kind == REDUCE:
        ranks = dist.ProcessGroup.unbox(args[1]).size()
        return sum(2 * (ranks - 1) * _bytes(tensor) // ranks for tensor in args[0])
    rows, _, splits, group = args
    own = splits[_resolve_process_group(group).rank()]
    return _bytes(rows) * (sum(splits) - own) // max(1, sum(splits))


def _kept(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of their own, so that playing a call again changes nothing else."""

    def keep(value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.zeros_like(value)
        return [keep(one) for one in value] if isinstance(value, list) else value

    return tuple(keep(value) for value in args)


def _wait(result: Any) -> None:
    if isinstance(result, Tensor):
        torch.ops._c10d_functional.wait_tensor(result)
    else:
        result[-1].wait() if hasattr(result[-1], "wait") else dist.Work.unbox(result[-1]).wait()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
