"""CompeteSMoE router: experts compete for tokens, and a router learns the winners (Pham et al.
2402.02526; Nguyen et al. 2505.13380).

In a competition all experts run, without dropout, and a_i says how strongly expert i responds:
mean softplus(E_i(x)) (2025), or the norm of E_i(x) (version 1). The K largest a_i route, weighted
by a_i over their sum (2025), or by their softmax (version 1). The router, logits = Wx + b, learns
the outcome:

    compete = mean over tokens and experts of (softmax(logits) - softmax(a))^2

with a detached. Its gradient reaches the router. The task's gradient reaches the winning experts,
through their outputs and their weights, but not the router. In all other steps, and in evaluation,
the router routes as in SMoE, and `compete` is 0. The balance loss and the z-loss are those of the
router's logits in every step. The metric `agreement` of a competition is the share of winners that
the router would also have chosen.

Which layers compete in a step follows from the seed and the step alone, so it repeats on resume and
is the same on all ranks: after the warm-up each layer competes with probability `rate`; if that
gives more than `max_layers`, that many are drawn from them. (Published code moves the surplus to
other steps, which keeps the rate exact.) A competition costs the memory and time of N experts per
token in its layers.

Departures: the published 2025 code adds a loss on the cosines of the winners' outputs, which is
what similarity learning is for, an extra weight on the winners' part of the loss, and a balance
loss on a; version 1's code compares sorted probabilities of the router with a softmax over the
winners alone, of whichever expert.

Shapes: T tokens, D model width, N experts, K experts per token.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simsmoe_cli.moe.routers.base import (
    Router,
    RouterInput,
    RouterSpec,
    Routing,
    fp32_linear,
)
from simsmoe_cli.recipe.routers import CompeteSMoESettings


class CompeteSMoERouter(Router):
    """Routes by logits = Wx + b; in a competition, by the experts' responses."""

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        assert isinstance(spec.settings, CompeteSMoESettings)
        self.settings = spec.settings
        self.gate = nn.Linear(spec.width, spec.num_experts, bias=spec.bias)

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        k = self.chosen_k(given)
        routing = self.softmax_routing(fp32_linear(x_TD, self.gate.weight, self.gate.bias), k)
        if self.training and self.competes(given.context.step, given.context.total_steps):
            assert given.run_experts is not None
            return self._competition(routing, self.affinity(given.run_experts(x_TD)), k)
        routing.losses["compete"] = torch.zeros_like(routing.losses["balance"])
        return routing

    def _competition(self, routing: Routing, affinity_TN: Tensor, k: int) -> Routing:
        """The routing to the winners, and the loss that teaches them to the router.

        Args:
            routing: the router's own choice.
            affinity_TN: how strongly experts respond, fp32.
            k: K.
        """
        top_affinity_TK, winner_TK = affinity_TN.topk(k, dim=-1)
        if self.settings.version == 1:
            weight_TK = top_affinity_TK.softmax(-1)
        else:
            weight_TK = top_affinity_TK / top_affinity_TK.sum(-1, keepdim=True)
        target_TN = affinity_TN.detach().softmax(-1)
        compete = F.mse_loss(routing.logits_TN.softmax(-1), target_TN)
        foreseen_TK = (winner_TK.unsqueeze(2) == routing.index_TK.unsqueeze(1)).any(2)
        return Routing(
            index_TK=winner_TK,
            weight_TK=weight_TK,
            logits_TN=affinity_TN,
            losses=routing.losses | {"compete": compete},
            metrics={"agreement": foreseen_TK.float().mean()},
            learned_TN=routing.logits_TN,
        )

    def affinity(self, outputs_NTD: Tensor) -> Tensor:
        """How strongly each expert responds to each token, [T, N] fp32."""
        with torch.autocast(outputs_NTD.device.type, enabled=False):
            outputs_NTD = outputs_NTD.float()
            response_NT: Tensor = (
                outputs_NTD.norm(dim=-1)
                if self.settings.version == 1
                else F.softplus(outputs_NTD).mean(-1)
            )
        return response_NT.T

    def competes(self, step: int, total_steps: int) -> bool:
        """Whether this layer competes in a step of training (0 is the first)."""
        spec = self.spec
        return spec.layer in competing_layers(
            step, total_steps, spec.layers, spec.seed, self.settings
        )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def competing_layers(
    step: int, total_steps: int, layers: int, seed: int, settings: CompeteSMoESettings
) -> set[int]:
    """The layers that compete in a step, of `layers`; at most `max_layers` of them."""
    if step < settings.warmup * total_steps:
        return set()
    draw = random.Random(f"{seed}/{step}")
    willing = [layer for layer in range(layers) if draw.random() < settings.rate]
    return set(draw.sample(willing, min(settings.max_layers, len(willing))))
