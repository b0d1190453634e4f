"""Similarity learning in the user's own training loop (SimSMoE, 2406.15883).

The similarity loss cannot be added to the loss of a user's loop. Instead its gradient is added at
the layer's output: `with_loss` returns the output unchanged, and its backward pass also runs the
backward pass of the similarity loss, with the coefficient as its gradient.

Gradient checkpointing runs a layer's forward pass a second time, inside the backward pass. That
pass must compute exactly what the first one computed, and must count nothing again. So the first
pass keeps what its decisions depended on (the pair tracker's sums and the state of the random
generator), and the second pass starts from there.

Shapes: T tokens, D width, N experts, K experts per token, R rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from simsmoe_cli.recipe.similarity import SimilaritySettings
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


@dataclass
class _Decision:
    """The state that one forward pass depended on, apart from its inputs.

    Attributes:
        index_TK: the routing, by which a recomputation finds its first pass.
        sums_NN: the pair tracker's sums before it.
        random: the generator's state before it.
        count_NN: tokens that pairs shared, summed over all processes.
    """

    index_TK: Tensor
    sums_NN: Tensor
    random: Tensor
    count_NN: Tensor | None = None


class _Tracker(PairTracker):
    """A pair tracker that reuses the counts of the first pass in a recomputation, so that processes
    exchange them only once."""

    counted_NN: Tensor | None = None
    replayed_NN: Tensor | None = None

    @torch.no_grad()
    def observe(self, selected_TN: Tensor) -> Tensor:
        if self.replayed_NN is None:
            self.counted_NN = super().observe(selected_TN)
            return self.counted_NN
        self.shared_NN.add_(self.replayed_NN / selected_TN.shape[0])
        return self.replayed_NN


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
    ):
        """Args:
        settings: what to measure, with a head that is not trained.
        width, experts, top_k: D, N and K of the layer.
        device: where the layer's inputs are.
        seed: of the tokens that are drawn.
        """
        self.generator = torch.Generator(device)
        self.generator.manual_seed(seed)
        self.learning = SimilarityLearning(
            settings, width, experts, top_k, generator=self.generator
        )
        self.learning.tracker = _Tracker(experts)
        self.learning.to(device)
        self._waiting: list[_Decision] = []

    def __call__(
        self,
        x_TD: Tensor,
        index_TK: Tensor,
        logits_TN: Tensor,
        run_experts: Backend,
        step: int,
        total_steps: int,
        *,
        recomputed: bool,
    ) -> SimilarityResult:
        """Observe a batch and measure its due pairs; arguments as of `SimilarityLearning`.

        Args:
            recomputed: whether this is the second pass over a batch. The pair tracker is then
                left as it is.
        """
        first = self._first_pass(index_TK) if recomputed else None
        tracker, now = self._tracker, self._now(index_TK)
        if first is not None:
            self._return_to(first)
            tracker.replayed_NN = first.count_NN
        try:
            result: SimilarityResult = self.learning(
                x_TD, index_TK, logits_TN, run_experts, step, total_steps
            )
        finally:
            if first is not None:
                self._return_to(now)
                tracker.replayed_NN = None
        if not recomputed:
            now.count_NN = tracker.counted_NN
            self._waiting.append(now)
        return result

    def forget(self) -> None:
        """Forget all first passes: no batch so far will be recomputed any more."""
        self._waiting.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """The state that a resumed training needs."""
        return {**self.learning.state_dict(), "random": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state from `state_dict`."""
        state = dict(state)
        self.generator.set_state(state.pop("random").cpu())
        self.learning.load_state_dict(state)

    def _first_pass(self, index_TK: Tensor) -> _Decision | None:
        """The state kept by the first pass over this batch; None if there is none (reentrant
        gradient checkpointing runs the first pass without gradients, which counts nothing)."""
        if len(self._waiting) == 1:
            return self._waiting[0]
        for decision in reversed(self._waiting):
            if torch.equal(decision.index_TK, index_TK):
                return decision
        return None

    def _now(self, index_TK: Tensor) -> _Decision:
        return _Decision(index_TK, self._tracker.shared_NN.clone(), self.generator.get_state())

    def _return_to(self, decision: _Decision) -> None:
        self._tracker.shared_NN.copy_(decision.sums_NN)
        self.generator.set_state(decision.random)

    @property
    def _tracker(self) -> _Tracker:
        tracker = self.learning.tracker
        assert isinstance(tracker, _Tracker)
        return tracker
