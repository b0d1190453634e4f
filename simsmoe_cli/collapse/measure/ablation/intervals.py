"""Changes of the loss with paired bootstrap intervals over windows.

Every case reads the same windows, so each window gives a difference of its own, and windows are
drawn with replacement: the same draws for all cases, so that differences of cases are paired too.

Shapes: W windows, S resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from simsmoe_cli.collapse.ablation import FEWEST_WINDOWS, Change
from simsmoe_cli.collapse.findings import defined
from simsmoe_cli.collapse.sources.replay import WindowScores
from simsmoe_cli.run.score import bits, perplexity


@dataclass(frozen=True)
class Difference:
    """What a case changes in each window: its scores minus those of the unchanged model.

    Attributes:
        nats_W: fp64.
        right_W: of correct classifications, fp64; None: tokens are predicted.
    """

    nats_W: Tensor
    right_W: Tensor | None = None

    @classmethod
    def of(cls, case: WindowScores, before: WindowScores) -> Difference:
        """The difference of two runs."""
        right_W = None
        if case.right_W is not None and before.right_W is not None:
            right_W = case.right_W.double() - before.right_W.double()
        return cls(case.nats_W - before.nats_W, right_W)

    @classmethod
    def mean(cls, some: list[Difference]) -> Difference:
        """The mean of several cases, window by window."""
        right = [one.right_W for one in some if one.right_W is not None]
        return cls(
            torch.stack([one.nats_W for one in some]).mean(0),
            torch.stack(right).mean(0) if right else None,
        )

    def minus(self, other: Difference) -> Difference:
        """The difference of two differences."""
        right_W = None
        if self.right_W is not None and other.right_W is not None:
            right_W = self.right_W - other.right_W
        return Difference(self.nats_W - other.nats_W, right_W)


class Intervals:
    """Makes a `Change` of what was measured in each window; of fewer than FEWEST_WINDOWS windows
    without an interval, which would be that of their extremes.

    Args:
        scored_W: predictions of each window.
        before: scores of the unchanged model.
        unit: what a token is: "byte", "character", "piece" ...
        tokens_per_unit: tokens per token of text, as of `Source`.
        resamples, level: S, and the level of the intervals.
        seed: of the draws.
    """

    def __init__(
        self,
        scored_W: Tensor,
        before: WindowScores,
        unit: str,
        tokens_per_unit: float,
        resamples: int,
        level: float,
        seed: int,
    ):
        self.scored_W = scored_W.double().cpu()
        self.before, self.unit, self.tokens_per_unit = before, unit, tokens_per_unit
        self.ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        windows = len(scored_W)
        drawn_SW = torch.randint(windows, (resamples, windows), generator=generator)
        ones_SW = torch.ones_like(drawn_SW, dtype=torch.float64)
        self.times_SW = torch.zeros(resamples, windows, dtype=torch.float64)
        self.times_SW.scatter_add_(1, drawn_SW, ones_SW)
        self.loss_nats = float(before.nats_W.sum() / self.scored_W.sum())

    def change(self, difference: Difference) -> Change:
        """The mean change of the loss, its interval, and the change of the score."""
        nats = float(difference.nats_W.sum() / self.scored_W.sum())
        drawn_S = (self.times_SW @ difference.nats_W) / (self.times_SW @ self.scored_W)
        low, high = torch.quantile(drawn_S, self.ends).tolist()
        if len(self.scored_W) < FEWEST_WINDOWS:
            low = high = math.nan
        return Change(
            nats=defined(nats),
            low=defined(low),
            high=defined(high),
            in_unit=defined(self._in_unit(nats, difference)),
        )

    @property
    def score_unit(self) -> str:
        """The name of the model's own score."""
        if self.before.right_W is not None:
            return "accuracy"
        return "perplexity" if bits(1.0, self.unit) is None else "bpc"

    @property
    def score(self) -> float:
        """The unchanged model's own score."""
        if self.before.right_W is not None:
            return float(self.before.right_W.double().mean())
        in_bits = bits(self.loss_nats * self.tokens_per_unit, self.unit)
        return perplexity(self.loss_nats) if in_bits is None else in_bits

    def _in_unit(self, nats: float, difference: Difference) -> float:
        if difference.right_W is not None:
            return float(difference.right_W.mean())
        in_bits = bits(nats * self.tokens_per_unit, self.unit)
        if in_bits is not None:
            return in_bits
        return perplexity(self.loss_nats + nats) - perplexity(self.loss_nats)
