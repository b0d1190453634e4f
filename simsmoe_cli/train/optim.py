"""Optimizer, learning-rate schedule, and the guard against non-finite losses."""

from __future__ import annotations

import bisect
import math

import torch
from torch import Tensor, nn

from simsmoe_cli.recipe.schema import TrainSettings
from simsmoe_cli.train.sharding import one_mesh_each

# Biases of stacked experts are matrices in shape only.
_STACKED_BIASES = ("b_in", "b_out")


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Fused Adam or AdamW over the parameters that learn; only matrices decay."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and name.rpartition(".")[2] not in _STACKED_BIASES
            (matrices if decays else others).append(parameter)
    groups = [
        {"params": group, "weight_decay": decay}
        for parameters, decay in ((matrices, settings.weight_decay), (others, 0.0))
        for group in one_mesh_each(parameters)
    ]
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(
        groups,
        lr=settings.lr,
        betas=(settings.betas[0], settings.betas[1]),
        eps=settings.eps,
        fused=True,
    )


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The learning rate of a step (0 is the first).

    Warm-up is linear and reaches the peak after `warmup_steps`; linear and cosine then fall to
    `final_lr_ratio` of the peak at the last step.
    """
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "multistep":
        return settings.lr * settings.gamma ** bisect.bisect_right(settings.milestones, step)
    span = max(1, settings.steps - settings.warmup_steps - 1)
    done = min(1.0, (step - settings.warmup_steps) / span)
    left = 1 - done if settings.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return settings.lr * (settings.final_lr_ratio + (1 - settings.final_lr_ratio) * left)


class NonFiniteGuard:
    """Skips the step of a non-finite loss or gradient, and all later ones, without waiting.

    The decision stays on the device: fused optimizers skip a step when `found_inf` is set. It stays
    set, so the weights are those before the first bad step until the host reads it. The host does
    so when it waits for the device anyway.
    """

    def __init__(self, device: torch.device):
        self.found_inf = torch.zeros((), device=device)
        self._good_steps = torch.zeros((), device=device, dtype=torch.int64)

    def watch(self, optimizer: torch.optim.Optimizer, loss: Tensor, grad_norm: Tensor) -> None:
        """Check this step's loss and gradient norm, before `optimizer.step()`."""
        good = torch.isfinite(loss) & torch.isfinite(grad_norm)
        self.found_inf = torch.maximum(self.found_inf, (~good).to(self.found_inf.dtype))
        self._good_steps = self._good_steps + (self.found_inf == 0)
        optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]

    def tripped(self) -> bool:
        """Whether any step since the start was bad. Waits on the device."""
        return bool(self.found_inf.item())

    def good_steps(self) -> int:
        """Steps watched before the first bad one. Waits on the device."""
        return int(self._good_steps.item())
