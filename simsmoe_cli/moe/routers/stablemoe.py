"""StableMoE router: learn to route, then freeze it (Dai et al. 2204.08396).

Stage 1: logits x . e_i, the K largest are chosen, weights are their softmax, with a balance loss;
and a light router, scores u(token id) . v_i with u of 50 dimensions, learns the same assignment
by cross-entropy. Stage 2, from `freeze_after` of training on: the light router routes, and neither
it nor the e_i learn any more, so a token id always goes to the same experts; both losses are 0. A
buffer remembers the stage of the weights: weights saved in stage 1 are evaluated in stage 1.

The light router learns the weights of the K chosen experts, so that a softmax over its own K best
scores estimates the mean weights of the token; for K = 1 this is the paper's cross-entropy with the
chosen expert. The metric "agreement" is the share of the teacher's experts that the light router
would also choose.

Departures: weights are the softmax over the selected, as in all routers here (the paper, K = 1:
sigmoid(x . e_i), from the learned embeddings in both stages), and the balance loss is that of all
routers.

`published: true` is SimSMoE's baseline of this name: one stage, logits x . e_i / |e_i|, no light
router, and a temperature of 0.3 in the balance loss.

Shapes: T tokens, D model width, N experts, K experts per token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simsmoe_cli.moe.routers.base import (
    Router,
    RouterInput,
    RouterSpec,
    Routing,
    fp32_linear,
    token_ids,
    vocabulary_of,
)
from simsmoe_cli.recipe.routers import StableMoESettings

INIT_GAIN = 0.1
PUBLISHED_INIT_GAIN, PUBLISHED_TAU = 0.32, 0.3


def router(spec: RouterSpec) -> Router:
    """The router of the paper, or SimSMoE's baseline."""
    assert isinstance(spec.settings, StableMoESettings)
    if spec.settings.published:
        return PublishedStableMoERouter(spec)
    return StableMoERouter(spec, spec.settings)


class StableMoERouter(Router):
    """Two stages; the buffer `frozen`, a bool, says whether the weights are in stage 2.

    Weights loaded in stage 2 stay in stage 2, at whatever step training continues.
    """

    frozen: Tensor

    def __init__(self, spec: RouterSpec, settings: StableMoESettings):
        super().__init__(spec)
        self.freeze_after = settings.freeze_after
        self.embeddings = nn.Parameter(torch.empty(spec.num_experts, spec.width))
        self.token_embedding = nn.Embedding(vocabulary_of(spec), settings.token_width)
        self.light_embeddings = nn.Parameter(torch.empty(spec.num_experts, settings.token_width))
        for parameter in (self.embeddings, self.light_embeddings):
            nn.init.orthogonal_(parameter, gain=INIT_GAIN)
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool))
        self.loaded_frozen = False
        self.register_load_state_dict_post_hook(_remember_stage)  # type: ignore[no-untyped-call]

    def is_frozen_at(self, step: int, total_steps: int) -> bool:
        """Whether a step of training (0 is the first) is in stage 2."""
        return self.loaded_frozen or step >= self.freeze_after * total_steps

    def light_logits(self, ids_T: Tensor) -> Tensor:
        """Scores [T, N] by token id alone, fp32."""
        return fp32_linear(self.token_embedding(ids_T), self.light_embeddings)

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        ids_T, k = token_ids(given), self.chosen_k(given)
        if not self.training:
            # Both are computed, so that the host need not read the stage from the device.
            learned_TN = fp32_linear(x_TD, self.embeddings)
            return self.softmax_routing(
                torch.where(self.frozen, self.light_logits(ids_T), learned_TN), k
            )
        frozen = self.is_frozen_at(given.context.step, given.context.total_steps)
        self.frozen.fill_(frozen)
        if frozen:
            with torch.no_grad():
                routing = self.softmax_routing(self.light_logits(ids_T), k)
            zero = torch.zeros_like(routing.losses["balance"])
            routing.losses = {"balance": zero, "distill": zero}
            return routing
        routing = self.softmax_routing(fp32_linear(x_TD, self.embeddings), k)
        self._teach(routing, self.light_logits(ids_T))
        return routing

    def _teach(self, routing: Routing, light_TN: Tensor) -> None:
        """Add the distillation loss and the agreement of the light router to a routing."""
        target_TN = torch.zeros_like(light_TN)
        target_TN.scatter_(1, routing.index_TK, routing.weight_TK.detach())
        routing.losses["distill"] = F.cross_entropy(light_TN, target_TN)
        light_index_TK = light_TN.topk(routing.index_TK.shape[1], dim=-1).indices
        both_TKK = light_index_TK.unsqueeze(2) == routing.index_TK.unsqueeze(1)
        routing.metrics["agreement"] = both_TKK.any(2).float().mean()


def _remember_stage(module: nn.Module, _: object) -> None:
    """The host reads the stage once, when weights are loaded."""
    assert isinstance(module, StableMoERouter)
    module.loaded_frozen = bool(module.frozen)


class PublishedStableMoERouter(Router):
    """logits x . e_i / |e_i|."""

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        self.embeddings = nn.Parameter(torch.empty(spec.num_experts, spec.width))
        nn.init.orthogonal_(self.embeddings, gain=PUBLISHED_INIT_GAIN)

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        logits_TN = fp32_linear(x_TD, F.normalize(self.embeddings.float(), dim=-1))
        return self.softmax_routing(logits_TN, self.chosen_k(given), PUBLISHED_TAU)
