"""The ranks that write a checkpoint together, each in a thread beside its training.

They have a process group of their own (`World.writing`), since the training uses its groups
meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from simsmoe_cli.parallel.world import ALONE, World

T = TypeVar("T")


class Writers:
    """See the module; one process writes alone.

    Args:
        world: all of its ranks make the same calls, in the same order.
    """

    def __init__(self, world: World = ALONE):
        self.rank, self.size, self._group = world.rank, world.size, world.writing

    @property
    def alone(self) -> bool:
        """Whether one process writes everything."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this rank writes what all share."""
        return self.rank == 0

    def file_name(self, name: str) -> str:
        """The name of this rank's file: of model.safetensors, model-00001-of-00008.safetensors."""
        stem, dot, suffix = name.rpartition(".")
        number = "" if self.alone else f"-{self.rank + 1:05}-of-{self.size:05}"
        return f"{stem}{number}{dot}{suffix}"

    def each(self, work: Callable[[], T]) -> list[T]:
        """Do work on every rank; what each returned, in the order of ranks.

        Args:
            work: returns what JSON can hold.

        Raises:
            OSError, SafetensorError: from the work of any rank; then it is raised on every rank.
        """
        if self.alone:
            return [work()]
        failure: Exception | None = None
        answer: dict[str, Any] = {}
        try:
            answer["done"] = work()
        except (OSError, SafetensorError) as error:
            failure, answer["failed"] = error, str(error)
        answers = self._gather(json.dumps(answer).encode())
        if failure is not None:
            raise failure
        for other in answers:
            if "failed" in other:
                raise OSError(other["failed"])
        return [cast(T, other["done"]) for other in answers]

    def first_does(self, work: Callable[[], T]) -> T:
        """Do work on the first rank; what it returned, on every rank. Raises as `each` does."""
        return cast(T, self.each(lambda: work() if self.first else None)[0])

    def _gather(self, text: bytes) -> list[dict[str, Any]]:
        lengths = [int(length.item()) for length in self._all(torch.tensor([len(text)]))]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        found = zip(self._all(padded), lengths, strict=True)
        return [json.loads(bytes(data[:length].tolist())) for data, length in found]

    def _all(self, tensor: Tensor) -> list[Tensor]:
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(found, tensor, group=self._group)
        return found
