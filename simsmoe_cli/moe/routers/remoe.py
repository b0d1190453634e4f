"""ReMoE: a ReLU decides which experts a token gets, and how many (Wang et al. 2412.14711).

weights = relu(Wx + b), every positive one is used; no top-K, so routing is differentiable
throughout. Sparsity comes from the paper's load-balanced L1 (section 3.4): with S the share of
zeros among the weights and f_i = (N / (K T)) * #{t: w_ti > 0},

    loss = lambda * (1/T) * sum_t sum_i f_i * w_ti,    lambda *= factor ^ sign((1 - K/N) - S)

after every batch of training. It steers the mean number of experts per token to K and penalises
overloaded experts most. It can only remove experts: where the task uses fewer than K by itself,
lambda stays at its lower bound.

Departures: each layer has its own lambda (the paper has one for all layers, so that layers may
differ). Lambda stays between its start and 1: without a bound it would grow far too large while a
falling learning rate makes the weights slow to follow, and then take long to come back. It is a
buffer, updated in place and without waiting on the device; a batch is the input of one forward
pass, of all ranks together. The returned loss is already multiplied with it. The metric
`experts_per_token` is N (1 - S).

Shapes: T tokens, D model width, N experts, K mean experts per token. A token has N slots; those of
weight 0 are empty.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simsmoe_cli.moe.routers.base import Router, RouterInput, RouterSpec, Routing, fp32_linear
from simsmoe_cli.parallel.world import ranks, sum_over_ranks
from simsmoe_cli.recipe.routers import ReMoESettings

LARGEST = 1.0


class ReMoERouter(Router):
    """weights = relu(Wx + b); `coefficient` is lambda, fp32."""

    coefficient: Tensor

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        assert isinstance(spec.settings, ReMoESettings)
        self.start, self.factor = spec.settings.l1_start, spec.settings.l1_factor
        self.target = 1 - spec.top_k / spec.num_experts
        self.gate = nn.Linear(spec.width, spec.num_experts, bias=spec.bias)
        self.register_buffer("coefficient", torch.tensor(self.start))

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        logits_TN = fp32_linear(x_TD, self.gate.weight, self.gate.bias)
        weight_TN = logits_TN.relu()
        active_TN = weight_TN > 0
        if given.context.top_k is not None:
            among_TN = torch.zeros_like(active_TN).scatter_(
                1, weight_TN.topk(given.context.top_k, dim=-1).indices, True
            )
            active_TN = active_TN & among_TN
        expert_N = torch.arange(self.num_experts, device=x_TD.device)
        return Routing(
            index_TK=torch.where(active_TN, expert_N, self.num_experts),
            weight_TK=weight_TN,
            logits_TN=logits_TN,
            losses={"sparsity": self._sparsity_loss(weight_TN, active_TN)},
            partial=True,
            metrics={"experts_per_token": active_TN.float().sum(1).mean()},
        )

    def _sparsity_loss(self, weight_TN: Tensor, active_TN: Tensor) -> Tensor:
        """lambda times the load-balanced L1 norm; in training, lambda then takes a step."""
        share_N = active_TN.float().mean(0)
        if self.training and ranks() > 1:
            active_N = active_TN.float().sum(0)
            total = sum_over_ranks(torch.cat([active_N, active_N.new_full((1,), len(active_TN))]))
            share_N = total[:-1] / total[-1]
        norm = (share_N / (1 - self.target) * weight_TN.mean(0)).sum()
        # A copy: autograd keeps the coefficient this loss was made with.
        loss: Tensor = self.coefficient.clone() * norm
        if self.training:
            missing = self.target - (1 - share_N.mean())
            self.coefficient.mul_(self.factor ** missing.sign()).clamp_(self.start, LARGEST)
        return loss
