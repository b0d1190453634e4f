"""What every router takes and gives.

Shapes: T tokens, D model width, N experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from simsmoe_cli.router_settings import RouterSettings


@dataclass(frozen=True)
class RouterSpec:
    """What a router is built from.

    Attributes:
        width, experts, top_k: D, N and K.
        bias: whether linear logits have a bias.
        vocab_size: ids `RouteContext.token_ids_T` may hold.
        seed: for what a router draws once and keeps, such as a table.
        layer, layers: which MoE layer it is in, of how many.
        settings: the router's own section of the recipe.
    """

    width: int
    experts: int
    top_k: int
    bias: bool = True
    vocab_size: int = 0
    seed: int = 0
    layer: int = 0
    layers: int = 1
    settings: RouterSettings = field(default_factory=RouterSettings)


@dataclass
class RouteContext:
    """What a router may want to know besides the tokens' hidden states.

    Attributes:
        token_ids_T: vocabulary ids of the tokens, for routers that look at them.
        step: optimizer steps taken so far.
        total_steps: optimizer steps of the whole training.
        dense_experts: runs every expert on rows [T, D] and gives [N, T, D].
        top_k: overrides the layer's K (evaluation of a router at another k).
    """

    token_ids_T: Tensor | None = None
    step: int = 0
    total_steps: int = 1
    dense_experts: Callable[[Tensor], Tensor] | None = None
    top_k: int | None = None


@dataclass
class Routing:
    """Where the tokens go.

    Attributes:
        index_TK: chosen experts, int64. N stands for no expert, in a router that says `partial`;
            such a slot costs next to nothing, is not counted anywhere, and its weight is ignored.
        weight_TK: their mixing weights.
        logits_TN: the scores the choice was made from, fp32.
        losses: auxiliary losses by name, each a scalar without its coefficient.
        partial: whether slots may be empty.
    """

    index_TK: Tensor
    weight_TK: Tensor
    logits_TN: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    partial: bool = False


class Router(nn.Module):
    """Base of all routers: `forward(x_TD, context) -> Routing`."""

    def __init__(self, spec: RouterSpec):
        super().__init__()
        self.spec = spec
        self.experts = spec.experts
        self.top_k = spec.top_k

    def forward(self, x_TD: Tensor, context: RouteContext) -> Routing:
        raise NotImplementedError


def fp32_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` in fp32 whatever autocast says."""
    with torch.autocast(x.device.type, enabled=False):
        return nn.functional.linear(
            x.float(), weight.float(), None if bias is None else bias.float()
        )
