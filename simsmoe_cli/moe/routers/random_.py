"""Random router: a control that routes at random.

In training each token goes to K of the N experts, uniformly and anew in every step; weights are
1/K. Evaluation must give the same result every time, so there the experts follow from a hash of
the token id, the layer and the seed.

Shapes: T tokens, D model width, N experts, K experts per token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simsmoe_cli.moe.routers.base import Router, RouterInput, Routing, list_routing, token_ids

MASK = 0xFFFFFFFF


class RandomRouter(Router):
    """K of N experts, uniformly; it has no parameters and no state."""

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        ids_T, spec = token_ids(given), self.spec
        if self.training:
            score_TN = torch.rand(*ids_T.shape, self.num_experts, device=ids_T.device)
        else:
            own = spec.seed * spec.layers + spec.layer
            key_T1 = mixed(ids_T.unsqueeze(1) ^ (own & MASK))
            expert_N = torch.arange(self.num_experts, device=ids_T.device)
            score_TN = mixed(key_T1 ^ mixed(expert_N + 1))
        return list_routing(score_TN.argsort(dim=-1, stable=True), self.chosen_k(given))


def mixed(x: Tensor) -> Tensor:
    """A hash of 32-bit numbers held in int64, of which no product overflows."""
    for _ in range(2):
        x = ((x >> 16) ^ x) * 0x45D9F3B & MASK
    return (x >> 16) ^ x
