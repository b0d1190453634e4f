"""What similarity learning costs in floating-point operations, and how often a budget allows it.

A comparison costs, forward and backward: the rows it gives to experts, the products of the measure
and of the head, and counting the tokens that pairs share. Its size does not shrink with the batch,
so in a small batch it would take a large share of a step. Under `similarity.budget` b, experts are
compared in every m-th step, with the smallest m for which

    FLOPs of a comparison / m <= b * FLOPs of a step without it,

and the loss of such a step counts m times, so its mean over steps stays the same. Whole comparisons
that are rare cost less than small ones in every step: besides products, each has a fixed cost (its
many small operations, and a gradient for every expert's weights).

Shapes: T tokens, D width, N experts, P pairs, n sampled tokens, B blocks: n rows of one expert.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from simsmoe_cli.recipe.similarity import SCHEDULED, SimilaritySettings
from simsmoe_cli.similarity.learning import Choice, SimilarityLearning


@dataclass(frozen=True)
class Cost:
    """The cost of similarity learning in a training; FLOPs are of one micro-batch.

    Attributes:
        comparison_flops: of comparing experts once, in all layers.
        step_flops: of the forward and backward pass without it.
        every: m; experts are compared in steps 0, m, 2m and so on.
    """

    comparison_flops: int
    step_flops: int
    every: int

    @classmethod
    def within(cls, budget: float | None, comparison_flops: int, step_flops: int) -> Cost:
        """The cost under a budget; None: no limit."""
        every = 1
        if budget is not None:
            every = max(1, math.ceil(comparison_flops / (budget * step_flops)))
        return cls(comparison_flops, step_flops, every)

    @property
    def share(self) -> float:
        """FLOPs of similarity learning over those of training without it."""
        return self.comparison_flops / self.every / self.step_flops

    def at(self, step: int) -> int:
        """How many steps the comparison of a step stands for; 0: nothing is compared in it."""
        return 0 if step % self.every else self.every


def comparison_flops(
    settings: SimilaritySettings, width: int, num_experts: int, expert_weights: int, tokens: int
) -> int:
    """FLOPs of comparing the experts of one layer once, forward and backward.

    Args:
        settings: what is compared and how.
        width, num_experts: D and N of the layer.
        expert_weights: that multiply a row of one expert.
        tokens: T, of one forward pass.
    """
    schedules = {name: 0.5 for name in SCHEDULED if isinstance(getattr(settings, name), list)}
    settings = settings.model_copy(update=schedules)  # their values do not matter
    blocks, rows = _block_shape(settings, num_experts, tokens)
    flops = 6 * expert_weights * blocks * rows
    flops += _measure_flops(settings, width, num_experts, blocks, rows)
    if settings.scope == "pairs":
        flops += 2 * tokens * num_experts**2  # which pairs share tokens
    return flops


@lru_cache(maxsize=256)
def _measure_flops(
    settings: SimilaritySettings, width: int, num_experts: int, blocks: int, rows: int
) -> int:
    """FLOPs of the head and the measure, counted on tensors that have a shape and no contents."""
    mask_Pn = measured_XP = None
    with FakeTensorMode(), torch.enable_grad():
        if settings.scope == "pairs":
            mask_Pn = torch.empty(blocks // 2, rows, dtype=torch.bool)
            measured_XP = torch.empty(1, blocks // 2, dtype=torch.bool)
        learning = SimilarityLearning(settings, width, num_experts, top_k=2)
        expert_B = torch.empty(blocks, dtype=torch.int64)
        token_Bn = torch.empty(blocks, rows, dtype=torch.int64)
        outputs_BnD = torch.empty(blocks, rows, width, requires_grad=True)
        choice = Choice(expert_B, token_Bn, mask_Pn, measured_XP, None, learning.options, 0.0, 1)
        with FlopCounterMode(display=False) as counter:
            learning.compare(choice, outputs_BnD).loss.backward()
    return int(counter.get_total_flops())


def _block_shape(settings: SimilaritySettings, num_experts: int, tokens: int) -> tuple[int, int]:
    """B and n: the blocks of a comparison and the tokens of each, in a batch of T tokens."""
    count = settings.tokens
    if settings.scope != "pairs":
        return num_experts, min(count, tokens)
    pairs = min(settings.pairs, num_experts * (num_experts - 1) // 2)
    if settings.anywhere:
        return 4 * pairs, min(count // 2, tokens)
    return 2 * pairs, min(count, tokens)
