"""What a layer with experts is given, and where it sends it, whatever kind of model it is in.

Shapes: T tokens, D width, N experts, K experts per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Routed:
    """The routing of some tokens in one layer.

    Attributes:
        input_TD: what its experts are given.
        index_TK: chosen experts; N for an empty slot.
        logits_TN: scores whose softmax is the router's distribution over experts; None: its output
            is not known to be a distribution.
        weight_TK: what the outputs of the chosen experts are scaled with; None: not known.
    """

    input_TD: Tensor
    index_TK: Tensor
    logits_TN: Tensor | None
    weight_TK: Tensor | None = None

    def foremost_T(self, experts: int) -> Tensor:
        """The expert with the largest weight of each token, int64; -1 where it has none.

        Where weights are not known it is the chosen one with the largest score, or else the first.

        Args:
            experts: N.
        """
        empty_TK = self.index_TK >= experts
        if self.weight_TK is not None:
            value_TK = self.weight_TK.float()
        elif self.logits_TN is not None:
            value_TK = self.logits_TN.float().gather(1, self.index_TK.clamp(max=experts - 1))
        else:
            value_TK = -torch.arange(self.index_TK.shape[1], device=self.index_TK.device)
            value_TK = value_TK.float().expand(self.index_TK.shape)
        best_T1 = value_TK.masked_fill(empty_TK, -math.inf).argmax(1, keepdim=True)
        return torch.where(empty_TK.all(1), -1, self.index_TK.gather(1, best_T1).squeeze(1))

    def of(self, tokens_T: Tensor) -> Routed:
        """The routing of some of the tokens, given by a mask or by their positions."""
        logits_TN = None if self.logits_TN is None else self.logits_TN[tokens_T]
        weight_TK = None if self.weight_TK is None else self.weight_TK[tokens_T]
        return Routed(self.input_TD[tokens_T], self.index_TK[tokens_T], logits_TN, weight_TK)
