"""Writes checkpoints in a thread, so that training waits only for a copy and not for the disk.

Checkpoints are written one after the other, in the order in which they were taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from simsmoe_cli.files.background import Background
from simsmoe_cli.parallel.sharded import sharded, whole
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir

AHEAD = 2  # checkpoints in memory that wait to be written


class Snapshot:
    """A model's parameters and buffers as they are now, in host memory.

    Tensors that share memory share it in the copy, so that they are written once. If ranks share
    the model, all of them must make one.
    """

    def __init__(self, model: nn.Module):
        copies: dict[int, Tensor] = {}
        self._state = {}
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, tensor in model.state_dict().items():
            if sharded(tensor) is not None:
                address = id(parameters[name])
            else:
                address = tensor.data_ptr() if tensor.numel() else id(tensor)
            copy = copies.get(address)
            if copy is None or copy.shape != tensor.shape:
                copies[address] = copy = host_copy(tensor)
            self._state[name] = copy

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors by name, as those of a module."""
        return self._state


def host_copy(tensor: Tensor) -> Tensor:
    """The tensor's values as they are now, in host memory; those of all ranks, if they share it."""
    return whole(tensor.detach()).to("cpu", copy=True)


class BackgroundWriter:
    """Writes the checkpoints of a run in a thread.

    Errors of the thread are raised by the next call of `save`, `save_best` or `wait`; after an
    error nothing more is written.

    Args:
        run: its folder.
        keep_last: how many checkpoints are kept; older ones are deleted.
        writes: whether this process writes. Of several ranks only the first does; the others only
            give it their parts.
    """

    def __init__(self, run: RunDir, keep_last: int, *, writes: bool = True):
        self._run, self._keep_last, self._writes = run, keep_last, writes
        self._thread = Background(AHEAD, "checkpoint")

    def save(
        self,
        step: int,
        model: nn.Module,
        training: dict[str, Tensor],
        state: dict[str, Any],
        *,
        sync_events: Callable[[], None],
    ) -> None:
        """Write a checkpoint of the model as it is now.

        Args:
            step: steps done.
            model: copied before this returns.
            training, state: see `checkpoint.save`; they must not change any more.
            sync_events: called first, since the state names a position in the events.
        """
        copy = Snapshot(model)

        if not self._writes:
            return

        def write() -> None:
            sync_events()
            checkpoint.save(self._run, step, copy, training, state)
            checkpoint.prune(self._run, self._keep_last)

        self._thread.submit(write)

    def save_best(self, step: int, model: nn.Module, state: dict[str, Any]) -> None:
        """Replace the best weights by those of the model as it is now."""
        copy = Snapshot(model)
        if self._writes:
            self._thread.submit(lambda: checkpoint.save_best(self._run, step, copy, state))

    def wait(self) -> None:
        """Return when everything is written."""
        self._thread.wait()

    def close(self) -> None:
        """End the thread once everything is written; errors of this are not raised."""
        self._thread.close()
