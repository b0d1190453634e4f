"""How much of a model's routing was there at an earlier checkpoint, and routing by domain.

Router saturation (OLMoE, 2409.02060, section 5.1) is the share of a token's experts that are the
same at two checkpoints, here of tokens of the same held-out text.

Shapes: T tokens, N experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from simsmoe_cli.collapse.sources.base import Source
from simsmoe_cli.collapse.specialisation import Saturation
from simsmoe_cli.similarity.routed import Routed
from simsmoe_cli.similarity.shared import received


class Choices:
    """Keeps which experts each token is sent to; a `sources.base.Listener`.

    Attributes:
        received: of each layer, [T, N] bool, after the walk.
    """

    def __init__(self, source: Source, layers: Sequence[int]):
        self.experts = {layer: source.layers[layer].experts for layer in layers}
        self.parts: dict[int, list[Tensor]] = {layer: [] for layer in layers}

    def routed(self, layer: int, routed: Routed, rows: bool) -> None:
        self.parts[layer].append(received(routed.index_TK, self.experts[layer]).cpu())

    def seen(self, layer: int) -> None:
        pass

    def progress(self, share: float) -> None:
        pass

    @property
    def received(self) -> dict[int, Tensor]:
        return {layer: torch.cat(parts) for layer, parts in self.parts.items()}


def choices_of(source: Source, tokens: int, layers: Sequence[int]) -> dict[int, Tensor]:
    """Which experts each of about so many tokens of a source's text is sent to, [T, N] bool, by
    layer."""
    listener = Choices(source, layers)
    source.walk(tokens, min(tokens, source.block), listener, layers, loss=False)
    return listener.received


def saturation(now_TN: Tensor, then_TN: Tensor, step: int) -> Saturation:
    """Share of the experts of a token that were the same at an earlier step, mean over tokens.

    Args:
        now_TN: which experts each token is sent to.
        then_TN: the same at the earlier step.
        step: of that.
    """
    now_TN, then_TN = now_TN.double(), then_TN.double()
    chosen_T = now_TN.sum(1)
    some_T = chosen_T > 0
    same_T = (now_TN * then_TN).sum(1)[some_T] / chosen_T[some_T]
    chance = (now_TN.mean(0) @ then_TN.mean(0)) / chosen_T.mean().clamp(min=1e-12)
    return Saturation(
        step=step,
        tokens=len(now_TN),
        share=same_T.mean().nan_to_num(0).item(),
        chance=chance.item(),
    )
