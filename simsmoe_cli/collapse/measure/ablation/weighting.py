"""How a router weights the experts it has chosen, found from its scores and weights.

When a token gets another expert than the router chose, the weights must be those that the same
router would give. Routers use few rules: a score f(logit) of each chosen expert, divided by the sum
over the chosen experts, by the sum over all experts, or by nothing, times one number. The rule that
predicts the router's own weights is used. If none does, and where all weights are equal, the new
expert gets the weight of the one it stands in for.

Shapes: T tokens, N experts, K experts per token.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Root mean square errors of weights, relative to their mean.
FITS = 0.02  # rounding to bf16 explains less
EQUAL = 1e-5  # rounding to fp32 explains less
KEPT = "the new expert gets the weight of the one it stands in for"

# f, as the logarithm of f(logit).
SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": lambda logits: logits,
    "sigmoid": F.logsigmoid,
    "relu": lambda logits: logits.relu().log(),
}
SUMS = {
    "chosen": "divided by the sum over the chosen experts",
    "all": "divided by the sum over all experts",
    "": "as it is",
}


@dataclass(frozen=True)
class Weighting:
    """A router's rule.

    Attributes:
        score: of SCORES; empty: weights are kept.
        over: of SUMS.
        factor: what all weights are multiplied with.
    """

    score: str = ""
    over: str = ""
    factor: float = 1.0

    @property
    def words(self) -> str:
        """The rule in words."""
        if not self.score:
            return KEPT
        return f"{self.score} of the score, {SUMS[self.over]}"

    def weights(self, logits_TN: Tensor, index_TK: Tensor) -> Tensor:
        """The weights of chosen experts, [T, K] fp32; 0 in empty slots.

        Args:
            logits_TN: the router's scores; -inf rules an expert out.
            index_TK: chosen experts; N for an empty slot.
        """
        experts = logits_TN.shape[1]
        score_TN = SCORES[self.score](logits_TN.float())
        empty_T1 = score_TN.new_full((len(score_TN), 1), -math.inf)
        chosen_TK = torch.cat([score_TN, empty_T1], dim=1).gather(1, index_TK.clamp(max=experts))
        if self.over == "chosen":
            weight_TK = chosen_TK.softmax(-1).nan_to_num(0.0)  # of a token without an expert
        elif self.over == "all":
            weight_TK = (chosen_TK - score_TN.logsumexp(1, keepdim=True)).exp().nan_to_num(0.0)
        else:
            weight_TK = chosen_TK.exp()
        return self.factor * weight_TK


def find_weighting(logits_TN: Tensor, index_TK: Tensor, weight_TK: Tensor) -> Weighting:
    """The rule that gives these weights.

    Args:
        logits_TN, index_TK: as of `Weighting.weights`.
        weight_TK: the router's own weights.
    """
    taken_TK = index_TK < logits_TN.shape[1]
    given = weight_TK[taken_TK].double()
    best, least = Weighting(), FITS
    if not len(given) or _error(given, given.mean()) <= EQUAL:
        return best
    for score, over in itertools.product(SCORES, SUMS):
        found = Weighting(score, over).weights(logits_TN, index_TK)[taken_TK].double()
        factor = float((given @ found) / (found @ found))
        error = _error(given, factor * found)
        if error < least and least > EQUAL:  # of two that are exact, the first
            best, least = Weighting(score, over, factor), error
    return best


def _error(given: Tensor, found: Tensor) -> float:
    return float((given - found).square().mean().sqrt() / given.mean())
