"""Between a training and its checkpoints: everything a resumed run goes on from.

With these tensors, and the step, a resumed run equals an uninterrupted one bit for bit on a CPU.

Training waits for a copy of its tensors and not for the disk: copies are written in the background,
in the order they were taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simsmoe_cli.train import checkpoint
from simsmoe_cli.train.log_window import LogWindow
from simsmoe_cli.train.objectives.base import Objective


class Snapshot:
    """A model's parameters and buffers as they are now, in host memory.

    Tensors that share memory share it in the copy, so that they are written once.
    """

    def __init__(self, model: nn.Module):
        copies: dict[int, Tensor] = {}
        self._state = {}
        for name, tensor in model.state_dict().items():
            place = tensor.data_ptr() if tensor.numel() else id(tensor)
            copy = copies.get(place)
            if copy is None or copy.shape != tensor.shape:
                copies[place] = copy = _copy(tensor)
            self._state[name] = copy

    def state_dict(self) -> dict[str, Tensor]:
        """As of a module."""
        return self._state


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def training_tensors(
    objective: Objective[Any], optimizer: torch.optim.Optimizer, window: LogWindow
) -> dict[str, Tensor]:
    """Copies of optimizer moments, the open log window, what the objective carries, and random
    states."""
    tensors = checkpoint.optimizer_tensors(objective.model, optimizer)
    tensors |= {f"window.{name}": value for name, value in window.sums.items()}
    tensors |= objective.carried()
    tensors = {name: _copy(tensor) for name, tensor in tensors.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if objective.device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(objective.device)
    return tensors


def restore(
    folder: Path, objective: Objective[Any], optimizer: torch.optim.Optimizer, window: LogWindow
) -> dict[str, Any]:
    """Put everything back as it was when a checkpoint was taken.

    Returns:
        The checkpoint's state.

    Raises:
        UserError: it is damaged, or of another objective, model or data.
    """
    device = objective.device
    state = checkpoint.read_state(folder)
    objective.require_same(state)
    checkpoint.load_weights(folder, state, objective.model)
    tensors = checkpoint.load_training(folder, state)
    try:
        checkpoint.restore_optimizer(objective.model, optimizer, tensors)
        window.restore(tensors, device)
        objective.restore_carried(tensors)
        _restore_random(tensors, device)
    except ValueError as error:
        raise checkpoint.damaged(folder / checkpoint.TRAINING, str(error)) from None
    return state


def _restore_random(tensors: dict[str, Tensor], device: torch.device) -> None:
    """Set the states of the random generators; a ValueError for what is none."""
    own = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda" and "rng.cuda" in tensors:
        own["rng.cuda"] = torch.cuda.get_rng_state(device)
    for name, now in own.items():
        then = tensors.get(name)
        if then is None or then.shape != now.shape or then.dtype != now.dtype:
            raise ValueError(f"{name} is no state of this random generator")
        try:
            if name == "rng.cpu":
                torch.set_rng_state(then)
            else:
                torch.cuda.set_rng_state(then, device)
        except RuntimeError as error:
            raise ValueError(f"{name} is no state of this random generator: {error}") from None
