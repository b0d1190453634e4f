"""What a layer with experts is given, and where it sends it, whatever kind of model it is in.

Shapes: T tokens, D width, N experts, K experts per token.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    def of(self, tokens_T: Tensor) -> Routed:
        """The routing of some of the tokens, given by a mask or by their positions."""
        logits_TN = None if self.logits_TN is None else self.logits_TN[tokens_T]
        weight_TK = None if self.weight_TK is None else self.weight_TK[tokens_T]
        return Routed(self.input_TD[tokens_T], self.index_TK[tokens_T], logits_TN, weight_TK)
