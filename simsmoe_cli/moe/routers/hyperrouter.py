"""HyperRouter: the router's weights come from a frozen network (Do et al. 2312.07035).

[W, b] = MLP(e): e, a learned vector of width D, goes through a random and frozen network
D -> hidden -> N(D+1) with a ReLU between. So the router keeps the diversity of a random router and
still learns, through D numbers. Routing is then that of SMoE: the K largest of Wx + b, weights
their softmax, with a balance loss.

As in the published code, e starts as a standard normal and the network as nn.Linear does, row i of
its output holds the weights and last the bias of expert i, and the bias is there whatever
`model.bias` says. Departures: the network is frozen, as the paper says (the published code leaves
it to learn), and it is a set of buffers, so it is not part of parameter counts, optimizer state or
FLOPs per token.

Shapes: T tokens, D model width, N experts, K experts per token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simsmoe_cli.moe.routers.base import (
    Router,
    RouterInput,
    RouterSpec,
    Routing,
    fp32_linear,
)
from simsmoe_cli.recipe.routers import HyperRouterSettings


class HyperRouter(Router):
    """logits = Wx + b with [W, b] = MLP(e); only e learns."""

    w_in: Tensor
    b_in: Tensor
    w_out: Tensor
    b_out: Tensor

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        assert isinstance(spec.settings, HyperRouterSettings)
        hidden = spec.settings.hidden
        self.embedding = nn.Parameter(torch.randn(spec.width))
        first = nn.Linear(spec.width, hidden)
        second = nn.Linear(hidden, spec.num_experts * (spec.width + 1))
        for layer, suffix in ((first, "in"), (second, "out")):
            self.register_buffer(f"w_{suffix}", layer.weight.detach())
            self.register_buffer(f"b_{suffix}", layer.bias.detach())

    def weights(self) -> tuple[Tensor, Tensor]:
        """The router's weights now: [N, D] and [N], fp32."""
        inner = fp32_linear(self.embedding, self.w_in, self.b_in).relu()
        out = fp32_linear(inner, self.w_out, self.b_out).unflatten(0, (self.num_experts, -1))
        return out[:, :-1], out[:, -1]

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        logits_TN = fp32_linear(x_TD, *self.weights())
        return self.softmax_routing(logits_TN, self.chosen_k(given))
