"""Loss-free balancing: a bias that affects selection only (DeepSeek-V3, 2412.19437, section 2.1.2;
Wang et al. 2408.15664).

s = sigmoid(Wx + b); the K experts with the largest s_i + bias_i are chosen; weights are their s,
divided by their sum. After every batch of training, bias_i += gamma * sign(mean load - load_i), so
an expert with too many tokens is chosen less often, without a gradient that works against the task.
There is no balance loss (DeepSeek-V3's small one within a sequence is left out).

The bias is a buffer, updated in place and without waiting on the device; loads are summed over all
ranks first. A batch is the input of one forward pass, that is a
micro-batch if there are several in a step. `logits_TN` are the logits before the sigmoid and the
bias.

Shapes: T tokens, D model width, N experts, K experts per token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simsmoe_cli.moe.routers.base import Router, RouterInput, RouterSpec, Routing, fp32_linear
from simsmoe_cli.parallel.world import sum_over_ranks
from simsmoe_cli.recipe.routers import LossFreeSettings


class LossFreeRouter(Router):
    """Sigmoid scores; `bias_N`, fp32, affects only which experts are chosen."""

    bias_N: Tensor

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        assert isinstance(spec.settings, LossFreeSettings)
        self.gamma = spec.settings.gamma
        self.gate = nn.Linear(spec.width, spec.num_experts, bias=spec.bias)
        self.register_buffer("bias_N", torch.zeros(spec.num_experts))

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        logits_TN = fp32_linear(x_TD, self.gate.weight, self.gate.bias)
        chosen_by_TN = logits_TN.detach().sigmoid() + self.bias_N
        index_TK = chosen_by_TN.topk(self.chosen_k(given), dim=-1).indices
        if self.training:
            self._learn(index_TK)
        # Normalised in log space: underflow would give 0/0.
        weight_TK = F.logsigmoid(logits_TN.gather(1, index_TK)).softmax(-1)
        return Routing(index_TK, weight_TK, logits_TN)

    def _learn(self, index_TK: Tensor) -> None:
        """Move the bias one step towards even load."""
        expert_N = torch.arange(self.num_experts, device=index_TK.device)
        count_N = (index_TK.flatten().unsqueeze(1) == expert_N).sum(0)
        count_N = sum_over_ranks(count_N)
        # In integers, so that the bias of an expert with exactly the mean load does not move.
        missing_N = count_N.sum() - self.num_experts * count_N
        self.bias_N.add_(missing_N.sign(), alpha=self.gamma)
