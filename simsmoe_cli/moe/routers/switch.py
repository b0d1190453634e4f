"""Switch router: one expert a token, weighted with its probability (Fedus et al. 2101.03961).

p = softmax(Wx + b); the most probable expert is chosen, and its weight is p itself, so that the
task's gradient reaches the router although K = 1. In training the router may see x scaled by
uniform noise of 1 - eps to 1 + eps, element by element; experts see x as it is.

Shapes: T tokens, D model width, N experts, K experts per token (1, or more in an evaluation that
asks for it).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simsmoe_cli.moe.routers.base import Router, RouterInput, RouterSpec, Routing, fp32_linear
from simsmoe_cli.recipe.routers import SwitchSettings


class SwitchRouter(Router):
    """weight = softmax(Wx + b) of the chosen expert; the bias b is there where the spec says so."""

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        assert isinstance(spec.settings, SwitchSettings)
        self.jitter = spec.settings.jitter
        self.gate = nn.Linear(spec.width, spec.num_experts, bias=spec.bias)

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        if self.training and self.jitter:
            noise_TD = torch.rand_like(x_TD, dtype=torch.float32)
            x_TD = x_TD * (1 - self.jitter + 2 * self.jitter * noise_TD)
        logits_TN = fp32_linear(x_TD, self.gate.weight, self.gate.bias)
        probability_TN = logits_TN.softmax(-1)
        weight_TK, index_TK = probability_TN.topk(self.chosen_k(given), dim=-1)
        balance = self.balance_loss(probability_TN, index_TK)
        return Routing(index_TK, weight_TK, logits_TN, {"balance": balance})
