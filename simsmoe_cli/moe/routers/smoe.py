"""SMoE router: linear logits, top-K, softmax over the selected (Shazeer et al. 1701.06538).

Shapes: T tokens, D model width, N experts, K experts per token.
"""

from __future__ import annotations

from torch import Tensor, nn

from simsmoe_cli.moe.routers.base import (
    Router,
    RouterInput,
    RouterSpec,
    Routing,
    fp32_linear,
)


class SMoERouter(Router):
    """logits = Wx + b; the K largest are chosen; weights are their softmax.

    The bias b is there where the spec says so.
    """

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        self.gate = nn.Linear(spec.width, spec.num_experts, bias=spec.bias)

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        logits_TN = fp32_linear(x_TD, self.gate.weight, self.gate.bias)
        return self.softmax_routing(logits_TN, self.chosen_k(given))
