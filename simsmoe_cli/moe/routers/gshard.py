"""GShard router: two experts a token, the second left out at random in training
(Lepikhin et al. 2006.16668, algorithm 1).

p = softmax(Wx + b); the two most probable experts share the weight, g1 + g2 = 1. In training the
second is kept with probability min(1, 2 g2), and if it is dropped, g1 does not change. Evaluation
keeps both.

Departures: no capacity, so no token is dropped; the balance loss is that of all routers, which
counts second experts too (the paper's counts first experts alone).

Shapes: T tokens, D model width, N experts, K = 2 experts per token (or as many as an evaluation
asks for).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simsmoe_cli.moe.routers.base import Router, RouterInput, RouterSpec, Routing, fp32_linear
from simsmoe_cli.recipe.routers import GShardSettings


class GShardRouter(Router):
    """Top-2 of softmax(Wx + b), renormalised; the bias b is there where the spec says so."""

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        assert isinstance(spec.settings, GShardSettings)
        self.random_second = spec.settings.random_second
        self.gate = nn.Linear(spec.width, spec.num_experts, bias=spec.bias)

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        logits_TN = fp32_linear(x_TD, self.gate.weight, self.gate.bias)
        top_logits_TK, index_TK = logits_TN.topk(self.chosen_k(given), dim=-1)
        weight_TK = top_logits_TK.softmax(-1)
        partial = self.training and self.random_second
        if partial:
            # The first of two has at least half of the weight, so it always stays.
            kept_TK = torch.rand_like(weight_TK) < 2 * weight_TK
            index_TK = torch.where(kept_TK, index_TK, self.num_experts)
        balance = self.balance_loss(logits_TN.softmax(-1), index_TK)
        return Routing(index_TK, weight_TK, logits_TN, {"balance": balance}, partial=partial)
