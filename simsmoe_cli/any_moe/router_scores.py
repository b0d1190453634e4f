"""Works out a router's distribution over experts from its outputs.

Routers give different things: logits whose softmax weights the experts, logits that go through a
sigmoid or another function first (DeepSeek-V3), or probabilities (Gemma 4). The weights of the
chosen experts show which: within a token they are proportional to f(logit), whatever is normalised
or scaled afterwards. Where no f fits, the distribution is not known.

Shapes: T tokens, N experts, K experts per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

FITS = 0.02  # largest relative error of the weights that rounding to bf16 explains
EXACT = 1e-5  # errors below this do not decide between functions
SAME_ENTROPY = 0.01  # of the highest entropy: functions that differ by less count as one
SUMS_TO_ONE = 0.005


def _root_softplus(logits: Tensor) -> Tensor:
    return F.softplus(logits).sqrt()


# The functions by which routers score an expert, as the logarithm of the score.
SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits,
    "sigmoid": F.logsigmoid,
    "root of softplus": lambda logits: _root_softplus(logits).log(),
}


@dataclass(frozen=True)
class RouterScores:
    """How a router's outputs are interpreted.

    Attributes:
        output: which of its outputs has a column for each expert; None: none has.
        kind: "probabilities" or a name of SCORES; empty where not known.
    """

    output: int | None
    kind: str

    def logits(self, outputs: list[Tensor], experts: int) -> Tensor | None:
        """Scores whose softmax is the router's distribution over experts, [T, N]; None: unknown.

        Columns beyond N, of experts that compute nothing, are left out; the rest is the
        distribution over the other experts.
        """
        if self.output is None:
            return None
        found_TN = outputs[self.output][:, :experts].float()
        return found_TN.log() if self.kind == "probabilities" else SCORES[self.kind](found_TN)


def read_router(outputs: list[Tensor], index_TK: Tensor, weight_TK: Tensor | None) -> RouterScores:
    """Detect which kind of scores a router returns.

    Args:
        outputs: the router's outputs with a column for each expert, [T, N or more]; see
            `scores_of`.
        index_TK: chosen columns; a number beyond them for an empty slot.
        weight_TK: what their outputs are weighted with; None where that is not seen, and then
            the softmax of logits is taken for granted.
    """
    fitting: list[tuple[float, RouterScores]] = []
    for index, found in enumerate(outputs):
        if is_distribution(found, index_TK.shape[1]):
            return RouterScores(index, "probabilities")
        if weight_TK is None:
            return RouterScores(index, "softmax")
        for name, score in SCORES.items():
            error = _misfit(score(found.float()), index_TK, weight_TK.float())
            if error < FITS:
                fitting.append((error, RouterScores(index, name)))
    if not fitting:
        return RouterScores(None, "")
    least, best = min(fitting, key=lambda pair: pair[0])
    experts = outputs[0].shape[-1]
    entropy = _entropy(best.logits(outputs, experts))
    for error, rival in fitting:
        as_good = error <= max(3 * least, EXACT)
        if as_good and abs(_entropy(rival.logits(outputs, experts)) - entropy) > SAME_ENTROPY:
            return RouterScores(None, "")
    return best


def _entropy(logits_TN: Tensor | None) -> float:
    """The mean entropy of distributions, as a share of the maximum."""
    assert logits_TN is not None
    entropy_T = torch.special.entr(logits_TN.softmax(-1)).sum(-1)
    return float(entropy_T.mean()) / math.log(logits_TN.shape[-1])


def scores_of(given: Iterable[Tensor], experts: int, weight_TK: Tensor | None) -> list[Tensor]:
    """A router's floating outputs with a column for each expert, as [T, N or more]."""
    wide = [
        value.flatten(0, -2)
        for value in given
        if value.is_floating_point() and value.ndim >= 2 and value.shape[-1] >= experts
    ]
    return [
        value
        for value in wide
        if weight_TK is None or value.shape != weight_TK.shape or not torch.equal(value, weight_TK)
    ]


def is_distribution(values: Tensor, chosen: int) -> bool:
    """Whether every row is a distribution: non-negative, sums to 1, and is not zero for all but K
    experts.

    Args:
        values: [T, N].
        chosen: K; the weights of K chosen experts among zeros do not count as a distribution.
    """
    values = values.float()
    if not len(values) or not bool((values >= 0).all()):
        return False
    if chosen < values.shape[-1] and int((values > 0).sum(-1).max()) <= chosen:
        return False
    return bool(((values.sum(-1) - 1).abs() < SUMS_TO_ONE).all())


def _misfit(log_score_TN: Tensor, index_TK: Tensor, weight_TK: Tensor) -> float:
    """The error if weights are taken as proportional to the scores (90 % quantile of relative
    errors).

    Weights are compared within a token; with one expert a token, with the score itself and with its
    share of all scores, up to one factor for all tokens.
    """
    columns = log_score_TN.shape[1]
    taken_TK = (index_TK < columns) & (weight_TK > 0)
    chosen_TK = log_score_TN.gather(1, index_TK.clamp(max=columns - 1))
    ratio_TK = weight_TK.clamp(min=1e-30).log() - chosen_TK
    if index_TK.shape[1] > 1:
        within_TK = ratio_TK[taken_TK.all(1)]
        return _spread(within_TK - within_TK.mean(1, keepdim=True))
    ratio_T = ratio_TK[taken_TK]
    weight_T = weight_TK[taken_TK]
    if len(weight_T) < 2 or float(weight_T.max() - weight_T.min()) < 1e-6:
        return math.inf  # the same weight for all says nothing of the scores
    share_T = ratio_T + log_score_TN.logsumexp(1)[taken_TK[:, 0]]
    return min(_spread(ratio_T - ratio_T.median()), _spread(share_T - share_T.median()))


def _spread(differences: Tensor) -> float:
    """The 90 % quantile of absolute differences of logarithms; infinite where one is undefined."""
    if not len(differences) or not torch.isfinite(differences).all():
        return math.inf
    return torch.quantile(differences.abs().flatten()[: 2**20], 0.9).item()
