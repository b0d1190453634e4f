"""One optimizer step: micro-batches forward and backward, clipping, and the update of the weights.

Nothing in a step waits on the device: losses and logged values are summed on the device, and a step
with a non-finite loss is skipped there (optim.NonFiniteGuard).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.parallel.world import sum_over_ranks
from simsmoe_cli.train import sharding
from simsmoe_cli.train.busy import Busy
from simsmoe_cli.train.log_window import LogWindow
from simsmoe_cli.train.loss import LossWeights
from simsmoe_cli.train.objectives.base import Objective
from simsmoe_cli.train.optim import NonFiniteGuard, build_optimizer, learning_rate
from simsmoe_cli.train.profile_summary import BACKWARD, FORWARD, UPDATE
from simsmoe_cli.train.profiling import Unprofiled


class Stepper:
    """Takes the steps of a training, one by one.

    Args:
        objective: gives micro-batches, their loss, and the model that is trained in place.

    Attributes:
        optimizer, guard: of the model.
        busy: how long this rank works.
        window: sums of what the steps measured, for the next train event.
        compiled: whether `loss` is compiled.
        loss: of a micro-batch, as `Objective.loss`.
        profiler: receives the parts of a step.
        done: steps taken since the training began, those before a resume included.
        begun: whether a step was begun and not finished.
    """

    def __init__(self, objective: Objective[Any]):
        self.objective, self.model = objective, objective.model
        self.world = objective.world
        self.settings = settings = objective.recipe.train
        self.optimizer = build_optimizer(self.model, settings)
        self.guard = NonFiniteGuard(objective.device)
        self.busy = Busy(self.world, objective.device)
        self.window = LogWindow()
        self.compiled = settings.compile == "on" or (
            settings.compile == "auto"
            and objective.device.type == "cuda"
            and objective.static_shapes
            and objective.world.alone
        )
        self.loss = torch.compile(objective.loss) if self.compiled else objective.loss
        self.profiler = Unprofiled()
        self.done = 0
        self.begun = False
        self._loss_weights = LossWeights(objective.recipe.loss_weights, objective.device)

    def step(self) -> None:
        """One optimizer step over all micro-batches; never waits on the device."""
        settings, profiler = self.settings, self.profiler
        weights = self._loss_weights.at(self.done / settings.steps)
        self.model.train()
        total = torch.zeros((), device=self.objective.device)
        seen = self.window if self.world.alone else LogWindow()
        batches = profiler.reading(self.objective.micro_batches(self.done))
        for part, inputs in enumerate(batches):
            self.begun = True
            with profiler.part(FORWARD):
                loss, memory, measured = self.loss(*inputs, weights)
            with profiler.part(BACKWARD):
                loss.backward()
            self.objective.keep(part, memory)
            total = total + loss.detach()
            seen.add(measured)
        if not self.world.alone:
            total = self._sum_over_ranks(total, seen)
        with profiler.part(UPDATE):
            grad_norm = self._clip()
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.done, settings)
            self.guard.watch(self.optimizer, total, grad_norm)
            with self.busy.update():
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.window.end_step(grad_norm)
        self.done += 1
        self.begun = False

    def _sum_over_ranks(self, total: Tensor, seen: LogWindow) -> Tensor:
        """The loss of all ranks; adds what they measured to the window. One exchange for all."""
        names, own = list(seen.sums), [total, *seen.sums.values()]
        flat = sum_over_ranks(torch.cat([value.flatten() for value in own]))
        values: list[Tensor] = [
            some.view(value.shape)
            for some, value in zip(flat.split([v.numel() for v in own]), own, strict=True)
        ]
        total, *sums = values
        self.window.add(dict(zip(names, sums, strict=True)))
        sharding.sum_whole_gradients(self.model)
        return total

    def _clip(self) -> Tensor:
        """Clip the gradient as the recipe says; its norm before that."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if not self.world.alone:
            grads = [p.grad for p in parameters if p.grad is not None]
            norm = sharding.total_norm(grads)
            if self.settings.clip_norm:  # as torch.nn.utils.clip_grads_with_norm_ does
                sharding.scale(grads, (self.settings.clip_norm / (norm + 1e-6)).clamp(max=1.0))
            return norm
        if self.settings.clip_norm:
            return torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
