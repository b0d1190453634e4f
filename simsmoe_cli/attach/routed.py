"""What one layer with experts did with some tokens, whoever's model it is in.

Shapes: T tokens, D model width, N experts, K experts per token.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Routed:
    """What one layer did with some tokens.

    Attributes:
        input_TD: what its experts are given.
        index_TK: chosen experts; N for an empty slot.
        logits_TN: scores whose softmax is the router's distribution over experts; None: what it
            gives is no distribution, or not known to be one.
    """

    input_TD: Tensor
    index_TK: Tensor
    logits_TN: Tensor | None
