"""Similarity learning in the user's own training loop (SimSMoE, 2406.15883).

The similarity loss cannot be added to the loss of a user's loop. Instead its gradient is added at
the layer's output: `with_loss` returns the output unchanged, and its backward pass also runs the
backward pass of the similarity loss, with the coefficient as its gradient.

Gradient checkpointing runs a layer's forward pass a second time, inside the backward pass. That
pass must compute exactly what the first one computed, and must count nothing again. So the first
pass keeps what its decisions depended on (the pair tracker's sums and a seed), and the second pass
starts from there.

Each batch draws its tokens with a seed of its own, made of the step, the layer and the process. So
a resumed training draws what an uninterrupted one draws, and no generator's state is saved.

Shapes: T tokens, D width, N experts, K experts per token, R rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.errors import UserError
from simsmoe_cli.recipe.similarity import SimilaritySettings
from simsmoe_cli.similarity.cost import Cost
from simsmoe_cli.similarity.learning import Backend, SimilarityLearning, SimilarityResult
from simsmoe_cli.similarity.pairs import PairTracker


class _WithLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, loss: Tensor, coefficient: Callable[[], float]) -> Tensor:
        ctx.coefficient = coefficient
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        loss_gradient = torch.full((), ctx.coefficient(), device=gradient.device)
        return gradient, loss_gradient, None


def with_loss(output: Tensor, loss: Tensor, coefficient: Callable[[], float]) -> Tensor:
    """The output, unchanged; its backward pass runs that of the loss as well.

    Args:
        output: of a layer, of any shape; it must take part in the loop's own loss.
        loss: a scalar, fp32.
        coefficient: what the loss is multiplied with, read in the backward pass.
    """
    joined: Tensor = _WithLoss.apply(output, loss, coefficient)  # type: ignore[no-untyped-call]
    return joined


def in_backward() -> bool:
    """Whether the backward pass is running now: a forward pass in it is a recomputation."""
    return bool(torch._C._current_graph_task_id() != -1)


def seed_of(*parts: object) -> int:
    """A seed for a random generator, which differs where any part differs."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass
class _Pass:
    """What one forward pass depended on, apart from its inputs.

    Attributes:
        index_TK: the routing, by which a recomputation finds its first pass.
        seed: of the tokens that were drawn.
        real_T: which tokens are not padding; None: all.
        count_NN: tokens that pairs shared, the mean over all processes.
        sums_NN: the pair tracker's sums after they were added.
        repeated: whether it was recomputed already.
    """

    index_TK: Tensor
    seed: int
    real_T: Tensor | None
    count_NN: Tensor | None = None
    sums_NN: Tensor | None = None
    repeated: bool = False


class _Tracker(PairTracker):
    """A pair tracker that reuses the counts of the first pass in a recomputation, so that processes
    exchange them only once."""

    now: _Pass | None = None

    @torch.no_grad()
    def observe(
        self, selected_TN: Tensor, real_T: Tensor | None = None, stands_for: int = 1
    ) -> Tensor:
        assert self.now is not None
        if self.now.count_NN is None or self.now.sums_NN is None:
            self.now.count_NN = super().observe(selected_TN, real_T, stands_for)
            self.now.sums_NN = self.shared_NN.clone()
        self.shared_NN.copy_(self.now.sums_NN)
        return self.now.count_NN


class AttachedSimilarity:
    """Similarity learning of one layer, safe to run again in a recomputation.

    Draws from a generator of its own and never from the user's.
    """

    def __init__(
        self,
        settings: SimilaritySettings,
        width: int,
        experts: int,
        top_k: int,
        device: torch.device,
        seed: int,
        cost: Cost,
    ):
        """Args:
        settings: what to measure, with a head that is not trained.
        width, experts, top_k: D, N and K of the layer.
        device: where the layer's inputs are.
        seed: of the tokens that are drawn; another one in each layer and process.
        cost: in which steps the budget lets experts be compared.
        """
        self.seed = seed
        self.cost = cost
        self.generator = torch.Generator(device)
        self.learning = SimilarityLearning(
            settings, width, experts, top_k, generator=self.generator
        )
        self.learning.tracker = _Tracker(experts)
        self.learning.to(device)
        self._waiting: list[_Pass] = []
        self._batches = 0  # since the optimizer's last step

    def __call__(
        self,
        x_TD: Tensor,
        index_TK: Tensor,
        logits_TN: Tensor,
        run_experts: Backend,
        step: int,
        total_steps: int,
        real_T: Tensor | None,
        *,
        recomputed: bool,
    ) -> SimilarityResult | None:
        """Observe a batch and measure its due pairs; arguments as of `SimilarityLearning`.
        None where the budget leaves this step out, or the weight is 0.

        Args:
            recomputed: whether this is the second pass over a batch. The pair tracker is then
                left as it is, and padding is that of the first pass.
        """
        stands_for = self.cost.at(step)
        if not stands_for or not self.learning.settings.compares(step / total_steps):
            return None
        first = self._first_pass(index_TK) if recomputed else None
        tracker = self._tracker
        before_NN = tracker.shared_NN.clone() if first is not None else None
        if first is None:
            tracker.now = _Pass(index_TK, seed_of(self.seed, step, self._batches), real_T)
            self._batches += 1
            if not recomputed:
                self._waiting.append(tracker.now)
        else:
            tracker.now = first
            first.repeated = True
        self.generator.manual_seed(tracker.now.seed)
        try:
            result: SimilarityResult = self.learning(
                x_TD.detach(),
                index_TK,
                logits_TN.detach(),
                run_experts,
                step,
                total_steps,
                tracker.now.real_T,
                stands_for,
            )
        finally:  # PyTorch ends a recomputation by an exception once it has what it needs
            if before_NN is not None:
                tracker.shared_NN.copy_(before_NN)
        return result

    def forget(self) -> None:
        """Forget all first passes: no batch so far will be recomputed any more."""
        self._waiting.clear()
        self._batches = 0

    def state_dict(self) -> dict[str, Tensor]:
        """The state that a resumed training needs."""
        return {**self.learning.state_dict(), "every": torch.tensor(self.cost.every)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state from `state_dict`.

        Raises:
            UserError: it is that of another layer or of other settings.
        """
        state = dict(state)
        self.cost = replace(self.cost, every=int(state.pop("every", self.cost.every)))
        try:
            self.learning.load_state_dict(state)
        except RuntimeError:
            raise UserError(
                "the state is that of a layer with other experts or settings",
                where="load_state_dict",
                hint="Attach with the settings that the state was saved with.",
            ) from None

    def _first_pass(self, index_TK: Tensor) -> _Pass | None:
        """The first pass over this batch; None if there is none (reentrant gradient checkpointing
        runs the first pass without gradients, which counts nothing).

        In a usual loop each backward pass follows its forward pass, so one pass alone was not
        repeated yet. Only in other loops is the routing compared, which waits on the device.
        """
        waiting = [one for one in self._waiting if not one.repeated] or self._waiting
        if len(waiting) == 1:
            return waiting[0]
        for one in reversed(waiting):
            if torch.equal(one.index_TK, index_TK):
                return one
        return None

    @property
    def _tracker(self) -> _Tracker:
        tracker = self.learning.tracker
        assert isinstance(tracker, _Tracker)
        return tracker
