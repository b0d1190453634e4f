"""Between a training and its checkpoints: everything a resumed run goes on from.

With these tensors, and the step, a resumed run equals an uninterrupted one bit for bit on a CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.train import checkpoint
from simsmoe_cli.train.objective import Objective
from simsmoe_cli.train.window import LogWindow


def training_tensors(
    objective: Objective[Any], optimizer: torch.optim.Optimizer, window: LogWindow
) -> dict[str, Tensor]:
    """Optimizer moments, the open log window, what the objective carries, and random states."""
    tensors = checkpoint.optimizer_tensors(objective.model, optimizer)
    tensors |= {f"window.{name}": value for name, value in window.sums.items()}
    tensors |= objective.carried()
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
    tensors = checkpoint.load_training(folder)
    checkpoint.restore_optimizer(objective.model, optimizer, tensors)
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "window":
            window.sums[rest] = tensor.to(device)
    objective.restore_carried(tensors)
    torch.set_rng_state(tensors["rng.cpu"])
    if device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)
    return state
