"""Expert-choice router: each expert takes its tokens, not each token its experts
(Zhou et al. 2202.09368).

scores = softmax over the experts of Wx + b; each expert takes the C = T*c/N tokens with its
highest scores, c = `moe.top_k`, and weights them with the score. Load is even by construction, so
there is no balance loss; a token may get any number of experts, or none.

Which tokens an expert takes depends on all tokens of the batch, later ones included. In a causal
language model, routing therefore leaks the tokens to be predicted, and the loss looks too good.
Recipes refuse it there unless `expert_choice.allow_leak` is set.

Shapes: T tokens, D model width, N experts, C tokens per expert. A token has N slots; those of
experts that did not take it are empty.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simsmoe_cli.moe.routers.base import Router, RouterInput, RouterSpec, Routing, fp32_linear


class ExpertChoiceRouter(Router):
    """Each expert takes the `capacity` tokens with its highest scores."""

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        self.gate = nn.Linear(spec.width, spec.num_experts, bias=spec.bias)

    def capacity(self, tokens: int, top_k: int | None = None) -> int:
        """C: tokens an expert takes; rounded to the nearest, at least 1."""
        share = tokens * (top_k or self.top_k)
        return max(1, (2 * share + self.num_experts) // (2 * self.num_experts))

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        logits_TN = fp32_linear(x_TD, self.gate.weight, self.gate.bias)
        score_TN = logits_TN.softmax(-1)
        capacity = self.capacity(x_TD.shape[0], given.context.top_k)
        taken_CN = score_TN.topk(capacity, dim=0).indices
        taken_TN = torch.zeros_like(score_TN, dtype=torch.bool).scatter_(0, taken_CN, True)
        expert_N = torch.arange(self.num_experts, device=x_TD.device)
        return Routing(
            index_TK=torch.where(taken_TN, expert_N, self.num_experts),
            weight_TK=score_TN,
            logits_TN=logits_TN,
            partial=True,
        )
