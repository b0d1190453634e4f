"""Which experts of a layer are dead: they receive less than a hundredth of a fair share.

The share is judged on so many routed slots that a hundredth of a fair share would be at least ten
of them. With fewer (1,024 tokens and 64 experts: a hundredth of a fair share is a third of a slot)
an expert that receives few tokens cannot be told from one that receives none, so it is not judged.

The training, what watches it, and the report all use this function. It does not import torch.

Shapes: N experts.
"""

from __future__ import annotations

from collections.abc import Sequence

DEAD_BELOW = 0.01  # of a fair share of the slots
FEWEST_EXPECTED = 10  # slots of an expert with DEAD_BELOW of a fair share


def enough(slots: float, experts: int) -> bool:
    """Whether so many routed slots suffice to judge a layer of N experts."""
    return experts > 0 and slots * DEAD_BELOW >= FEWEST_EXPECTED * experts


def dead_experts(slots_N: Sequence[float]) -> list[int] | None:
    """The dead experts, in order; None where the slots are too few to judge.

    Args:
        slots_N: routed slots that each expert received, of any number of batches.
    """
    total, experts = sum(slots_N), len(slots_N)
    if not enough(total, experts):
        return None
    least = DEAD_BELOW * total / experts
    return [expert for expert, slots in enumerate(slots_N) if slots < least]
