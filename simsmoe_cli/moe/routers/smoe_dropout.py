"""SMoE-Dropout router: random, frozen, and sending every token to more experts as training goes on
(Chen et al. 2303.01610).

logits = Wx + b with W and b fixed at their random initial values; the K largest are chosen; weights
are their softmax. K grows linearly over training, from `moe.top_k` or `k_start` at the first step
to `k_end` at the last, as a function of the step alone, so a resumed run goes on where it was.
Evaluation uses the K of the checkpoint's step, or another one by `StepContext.top_k`: the model was
trained to work with many values of K (self-slimmable).

There is no balance loss: the router cannot learn from it, and through the hidden states it would
only push the layers below to compensate for a random router.

Shapes: T tokens, D model width, N experts, K experts per token.
"""

from __future__ import annotations

from torch import Tensor, nn

from simsmoe_cli.moe.routers.base import Router, RouterInput, RouterSpec, Routing, fp32_linear
from simsmoe_cli.recipe.routers import SMoEDropoutSettings


class SMoEDropoutRouter(Router):
    """logits = Wx + b, never learned; K is a function of the step."""

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        assert isinstance(spec.settings, SMoEDropoutSettings)
        self.settings = spec.settings
        self.k_start, self.k_end = spec.settings.range_of_k(spec.top_k, spec.num_experts)
        self.gate = nn.Linear(spec.width, spec.num_experts, bias=spec.bias).requires_grad_(False)

    def k_at(self, step: int, total_steps: int) -> int:
        """K at a step of training (0 is the first), to the nearest whole number; k_end after it."""
        return self.settings.k_at(step, total_steps, self.top_k, self.num_experts)

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        k = given.context.top_k or self.k_at(given.context.step, given.context.total_steps)
        logits_TN = fp32_linear(x_TD, self.gate.weight, self.gate.bias)
        top_logits_TK, index_TK = logits_TN.topk(k, dim=-1)
        return Routing(index_TK, top_logits_TK.softmax(-1), logits_TN)
