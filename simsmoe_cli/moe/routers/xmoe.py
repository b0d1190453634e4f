"""XMoE router: cosine scores in a small space (Chi et al. 2204.09179).

z = Px, P: D -> r; s_i = cos(z, e_i) / tau; the K largest are chosen, weights are their softmax.
Only angles matter, so a large norm of a token or of an expert's embedding has no effect on routing.
In SMoE such norms let hidden states collapse onto the experts' embeddings.

tau = tau_min + exp(a) with a learned, so it starts at `tau`, never falls to `tau_min`, and its
gradient never vanishes (published code clamps tau, which then cannot leave the floor again).

`published: true` is SimSMoE's baseline of this name: r = 8, z not normalised, no tau in routing
and a fixed 0.3 in the balance loss. Its embeddings are set back to norm 1.5 before each use in
training, which only affects the size of their gradient.

Shapes: T tokens, D model width, N experts, K experts per token, r dimensions of the small space.
"""

from __future__ import annotations

import math

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
from simsmoe_cli.recipe.routers import XMoESettings

INIT_GAIN = 0.32
PUBLISHED_DIMENSION, PUBLISHED_NORM, PUBLISHED_TAU = 8, 1.5, 0.3


def router(spec: RouterSpec) -> Router:
    """The router of the paper, or SimSMoE's baseline."""
    assert isinstance(spec.settings, XMoESettings)
    return PublishedXMoERouter(spec) if spec.settings.published else XMoERouter(spec, spec.settings)


class _SmallSpace(Router):
    """P: D -> r and embeddings e [N, r]."""

    def __init__(self, spec: RouterSpec, dimension: int):
        super().__init__(spec)
        self.projection = nn.Linear(spec.width, dimension, bias=False)
        self.embeddings = nn.Parameter(torch.empty(spec.num_experts, dimension))
        nn.init.orthogonal_(self.embeddings, gain=INIT_GAIN)


class XMoERouter(_SmallSpace):
    """s_i = cos(Px, e_i) / tau."""

    def __init__(self, spec: RouterSpec, settings: XMoESettings):
        # N/2 rounded to a multiple of 8, at least 8.
        super().__init__(spec, settings.dimension or max(8, (spec.num_experts // 2 + 4) // 8 * 8))
        self.tau_min = settings.tau_min
        self.log_tau = nn.Parameter(torch.tensor(math.log(settings.tau - settings.tau_min)))

    @property
    def tau(self) -> Tensor:
        """The temperature now."""
        return self.tau_min + self.log_tau.float().exp()

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        z_Tr = F.normalize(fp32_linear(x_TD, self.projection.weight), dim=-1)
        cosine_TN = fp32_linear(z_Tr, F.normalize(self.embeddings.float(), dim=-1))
        routing = self.softmax_routing(cosine_TN / self.tau, self.chosen_k(given))
        routing.metrics["tau"] = self.tau
        return routing


class PublishedXMoERouter(_SmallSpace):
    """s_i = Px . e_i / |e_i|."""

    changed_in_forward = ("embeddings",)

    def __init__(self, spec: RouterSpec):
        super().__init__(spec, PUBLISHED_DIMENSION)

    def forward(self, x_TD: Tensor, given: RouterInput) -> Routing:
        if self.training:
            _set_norm(self.embeddings)
        z_Tr = fp32_linear(x_TD, self.projection.weight)
        # A copy: autograd keeps what this pass used, whatever the next one sets back.
        embeddings_Nr = F.normalize(self.embeddings.float().clone(), dim=-1)
        logits_TN = fp32_linear(z_Tr, embeddings_Nr)
        return self.softmax_routing(logits_TN, self.chosen_k(given), PUBLISHED_TAU)


# A compiled graph would take the gradient at a parameter that it changes from its old value.
@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def _set_norm(embeddings_Nr: nn.Parameter) -> None:
    embeddings_Nr.mul_(PUBLISHED_NORM / embeddings_Nr.norm(dim=-1, keepdim=True))
