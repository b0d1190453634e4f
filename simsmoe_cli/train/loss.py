"""The loss of a training step: the sum of the task's loss and the auxiliary losses (`total_loss`).

    loss = sum over micro-batches of share * (task + sum over names of weight * auxiliary loss)

If several ranks divide each micro-batch, a rank's loss is its part of this sum: the parts, and
their gradients, add up to the loss of the whole batch and its gradient. So every rank weights its
mean over texts or tokens with its `Part` of them.

Every auxiliary loss (balance, z, similarity, a router's own) is returned by the model under its
name, has a coefficient of its own in the recipe, and is logged without its coefficient.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from simsmoe_cli.model.interface import Outcome
from simsmoe_cli.recipe.schedule import Schedule, value_at
from simsmoe_cli.train.log_window import SLOTS, WHOLE, Part, measured


class LossWeights:
    """Coefficients of the auxiliary losses, with the values of the current step.

    A coefficient that changes over training is a tensor on the device that is updated in place,
    because a compiled step would treat a number as a constant.
    """

    def __init__(self, values: Mapping[str, float | Schedule], device: torch.device):
        self._schedules = {name: v for name, v in values.items() if isinstance(v, list)}
        self._now: dict[str, float | Tensor] = {
            name: torch.zeros((), device=device) if isinstance(value, list) else value
            for name, value in values.items()
        }

    def at(self, progress: float) -> dict[str, float | Tensor]:
        """The coefficients by name, at this share of training; valid until the next call."""
        for name, schedule in self._schedules.items():
            now = self._now[name]
            assert isinstance(now, Tensor)
            now.fill_(value_at(schedule, progress))
        return self._now


def total_loss(
    task: Tensor,
    output: Outcome,
    weights: Mapping[str, float | Tensor],
    share: float,
    part: Part = WHOLE,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A micro-batch's share of the loss of a step, and the values to log (detached).

    Args:
        task: the loss of the task.
        output: with the auxiliary losses.
        weights: their coefficients by name.
        share: of the batch.
        part: of the micro-batch.
    """
    to_log = measured(task, output, part)
    if part == WHOLE:
        total = task
        for name, loss in output.losses.items():
            total = total + weights[name] * loss
    else:
        total = part.targets * task
        for name, loss in output.losses.items():
            total = total + part.tokens * weights[name] * loss
    # Slots are counts, which add up over micro-batches; everything else is a mean.
    return total * share, {
        name: value if name.startswith(SLOTS) else value * share for name, value in to_log.items()
    }
