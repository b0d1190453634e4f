"""Writes checkpoints in a thread, so that training waits only for a copy and not for the disk.

Checkpoints are written one after the other, in the order in which they were taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from simsmoe_cli.files.background import Background
from simsmoe_cli.parallel.sharded import OwnShare
from simsmoe_cli.parallel.writers import Writers
from simsmoe_cli.run import checkpoint, save_checkpoint
from simsmoe_cli.run.folder import RunDir

AHEAD = 2  # checkpoints in memory that wait to be written


class Snapshot:
    """The parameters and buffers of a model as they are now, in host memory.

    Tensors that share memory share it in the copy, so that they are written once.
    """

    def __init__(self, model: nn.Module):
        copies: dict[int, Tensor] = {}
        self._state = {}
        for name, tensor in model.state_dict().items():
            address = tensor.data_ptr() if tensor.numel() else id(tensor)
            copy = copies.get(address)
            if copy is None or copy.shape != tensor.shape:
                copies[address] = copy = host_copy(tensor)
            self._state[name] = copy

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors by name, as those of a module."""
        return self._state


def host_copy(tensor: Tensor) -> Tensor:
    """The tensor's values as they are now, in host memory."""
    return tensor.detach().to("cpu", copy=True)


def _own_share(model: nn.Module) -> OwnShare:
    """What this rank writes of a model; a parameter with several names has the first."""
    names = (name for name, _ in model.named_parameters())
    kept = {*names, *(name for name, _ in model.named_buffers())}
    return OwnShare.of((name, x) for name, x in model.state_dict().items() if name in kept)


class BackgroundWriter:
    """Writes the checkpoints of a run in a thread.

    Errors of the thread are raised by the next call of `save`, `save_best` or `wait`; after an
    error nothing more is written.

    Args:
        run: its folder.
        keep_last: how many checkpoints are kept; older ones are deleted.
        writers: the ranks that write together; all of them make the same calls.
    """

    def __init__(self, run: RunDir, keep_last: int, writers: Writers = save_checkpoint.ALONE):
        self._run, self._keep_last, self._writers = run, keep_last, writers
        self._thread = Background(AHEAD, "checkpoint")

    def save(
        self,
        step: int,
        model: nn.Module,
        training: dict[str, Tensor] | OwnShare,
        state: dict[str, Any],
        *,
        sync_events: Callable[[], None],
    ) -> None:
        """Write a checkpoint of the model as it is now.

        Args:
            step: steps done.
            model: copied before this returns.
            training, state: see `save_checkpoint.save`; they must not change any more.
            sync_events: called first, since the state names a position in the events.
        """
        copy = self._copy(model)

        def write() -> None:
            if self._writers.first:
                sync_events()
            save_checkpoint.save(self._run, step, copy, training, state, self._writers)
            if self._writers.first:
                checkpoint.prune(self._run, self._keep_last)

        self._thread.submit(write)

    def save_best(self, step: int, model: nn.Module, state: dict[str, Any]) -> None:
        """Replace the best weights by those of the model as it is now."""
        copy = self._copy(model)
        self._thread.submit(
            lambda: save_checkpoint.save_best(self._run, step, copy, state, self._writers)
        )

    def _copy(self, model: nn.Module) -> Snapshot | OwnShare:
        return Snapshot(model) if self._writers.alone else _own_share(model)

    def wait(self) -> None:
        """Return when everything is written."""
        self._thread.wait()

    def close(self) -> None:
        """End the thread once everything is written; errors of this are not raised."""
        self._thread.close()
