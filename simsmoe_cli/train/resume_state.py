"""The tensors a resumed run needs besides those of the model, saved and restored.

With them, a resumed run equals an uninterrupted one bit for bit on a CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.run import checkpoint, weights
from simsmoe_cli.run.background_writer import host_copy
from simsmoe_cli.run.checkpoint_state import TRAINING
from simsmoe_cli.train.log_window import LogWindow
from simsmoe_cli.train.objectives.base import Objective


def training_tensors(
    objective: Objective[Any], optimizer: torch.optim.Optimizer, window: LogWindow
) -> dict[str, Tensor]:
    """Copies of optimizer moments, the open log window, what the objective carries, and random
    states."""
    tensors = weights.optimizer_tensors(objective.model, optimizer)
    tensors |= {f"window.{name}": value for name, value in window.sums.items()}
    tensors |= objective.carried()
    tensors = {name: host_copy(tensor) for name, tensor in tensors.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if objective.device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(objective.device)
    return tensors


def restore(
    folder: Path, objective: Objective[Any], optimizer: torch.optim.Optimizer, window: LogWindow
) -> dict[str, Any]:
    """Restore model, optimizer, log window, objective and random states from a checkpoint.

    Returns:
        The checkpoint's state.

    Raises:
        UserError: it is damaged, or of another objective, model or data.
    """
    device = objective.device
    state = checkpoint.read_state(folder)
    objective.require_same(state)
    weights.load_weights(folder, state, objective.model)
    tensors = weights.load_training(folder, state)
    try:
        weights.restore_optimizer(objective.model, optimizer, tensors)
        window.restore(tensors, device)
        objective.restore_carried(tensors)
        _restore_random(tensors, device)
    except ValueError as error:
        raise checkpoint.damaged(folder / TRAINING, str(error)) from None
    return state


def _restore_random(tensors: dict[str, Tensor], device: torch.device) -> None:
    """Set the states of the random generators; a ValueError for anything else."""
    own = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda" and "rng.cuda" in tensors:
        own["rng.cuda"] = torch.cuda.get_rng_state(device)
    for name, now in own.items():
        then = tensors.get(name)
        if then is None or then.shape != now.shape or then.dtype != now.dtype:
            raise ValueError(f"{name} is not a state of this random generator")
        try:
            if name == "rng.cpu":
                torch.set_rng_state(then)
            else:
                torch.cuda.set_rng_state(then, device)
        except RuntimeError as error:
            raise ValueError(f"{name} is not a state of this random generator: {error}") from None
