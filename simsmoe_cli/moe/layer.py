"""The mixture-of-experts layer: route -> dispatch -> experts -> combine, and similarity learning.

y_t = sum over the K chosen experts of w_ti * E_i(x_t). Losses are returned by name, never stored:
the model sums them and the trainer multiplies each with its coefficient (SimSMoE's published code
added the similarity to the gate's balance loss, so it was also scaled by the balance coefficient).

Padding is taken out first and put back as zeros at the end, so routers, losses and the counts of
loads and pairs never see it. `StepContext.real_T` says which tokens are real.

Shapes: B batch, M block, T = B*M tokens (only the real ones, where there is padding), D model
width, N experts, K experts per token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simsmoe_cli import registry
from simsmoe_cli.errors import UserError
from simsmoe_cli.moe.balance import z_loss
from simsmoe_cli.moe.dispatch import FurtherRows
from simsmoe_cli.moe.experts.base import Experts
from simsmoe_cli.moe.experts.grouped import ALIGNMENT
from simsmoe_cli.moe.routers.base import Router, RouterInput, RouterSpec, Routing, StepContext
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.similarity.learning import SimilarityLearning, SimilarityResult


@dataclass
class MoEOutput:
    """The output of a MoE layer.

    Attributes:
        hidden: of the input's shape; zeros at padding.
        losses: scalars by name, without coefficients; of several ranks, each is the mean over this
            rank's tokens, or the same on every rank.
        routing: the experts of each token, without padding.
        similarity: the result of similarity learning in this step, if it is on.
    """

    hidden: Tensor
    losses: dict[str, Tensor]
    routing: Routing
    similarity: SimilarityResult | None = None


def backend_name(recipe: Recipe) -> str:
    """The expert backend of a recipe, with "auto" decided."""
    if recipe.moe.backend != "auto":
        return recipe.moe.backend
    aligned = recipe.model.width % ALIGNMENT == 0 and recipe.moe.hidden % ALIGNMENT == 0
    return "grouped" if aligned else "loop"


def expert_backend(recipe: Recipe) -> type[Experts]:
    """The class that computes a recipe's experts."""
    backend: type[Experts] = registry.load("experts", backend_name(recipe))
    return backend


def portable(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe, with expert backend "auto" if its backend cannot compute on the device.

    Every backend reads the same checkpoint and computes the same.
    """
    try:
        expert_backend(recipe).require(device)
    except UserError:
        moe = recipe.moe.model_copy(update={"backend": "auto"})
        return recipe.model_copy(update={"moe": moe})
    return recipe


class MoELayer(nn.Module):
    """N experts behind a router.

    Args:
        recipe: its sections model, moe, similarity and that of the router are read.
        vocab_size: of the token ids that a router may read.
        layer, layers: index of this MoE layer among all MoE layers, and their number.
    """

    def __init__(self, recipe: Recipe, vocab_size: int = 0, layer: int = 0, layers: int = 1):
        super().__init__()
        model, moe = recipe.model, recipe.moe
        spec = RouterSpec(
            width=model.width,
            num_experts=moe.experts,
            top_k=moe.top_k,
            bias=model.bias,
            vocab_size=vocab_size,
            seed=recipe.train.seed,
            layer=layer,
            layers=layers,
            global_balance=moe.balance_scope == "global",
            settings=recipe.router_settings,
        )
        self.router: Router = registry.load("routers", moe.router)(spec)
        self.experts = expert_backend(recipe)(
            moe.experts,
            model.width,
            moe.hidden,
            activation=model.activation,
            bias=model.bias,
            dropout=model.dropout,
            published_init=moe.init == "published",
        )
        self.z_loss = moe.z_weight > 0
        self.similarity = (
            SimilarityLearning(
                recipe.similarity, model.width, moe.experts, moe.top_k, over_ranks=True
            )
            if recipe.similarity.enabled
            else None
        )

    def forward(
        self, x_BMD: Tensor, context: StepContext, token_ids_T: Tensor | None = None
    ) -> MoEOutput:
        """The layer's output for hidden states [B, M, D] whose token ids are `token_ids_T`."""
        x_TD = x_BMD.flatten(0, -2)
        positions, real_T = x_TD.shape[0], context.real_T
        if real_T is not None:
            x_TD = x_TD.index_select(0, real_T)
            if token_ids_T is not None:
                token_ids_T = token_ids_T.index_select(0, real_T)
        routing = self.router(x_TD, RouterInput(context, token_ids_T, self.experts.dense))
        hidden, similarity = self._mix(x_TD, routing, context)
        losses = dict(routing.losses)
        if self.z_loss:
            learned_TN = routing.logits_TN if routing.learned_TN is None else routing.learned_TN
            losses["z"] = z_loss(learned_TN)
        if similarity is not None:
            losses["similarity"] = similarity.loss
        if real_T is not None:
            hidden = hidden.new_zeros(positions, hidden.shape[1]).index_copy(0, real_T, hidden)
        return MoEOutput(hidden.view_as(x_BMD), losses, routing, similarity)

    def _mix(
        self, x_TD: Tensor, routing: Routing, context: StepContext
    ) -> tuple[Tensor, SimilarityResult | None]:
        """The mixture [T, D], and in training the result of similarity learning, if it is on.

        Where no dropout is drawn, the rows of both go through the experts together.
        """
        chosen = x_TD, routing.index_TK, routing.weight_TK
        learning = self.similarity if self.training else None
        if learning is None:
            return self.experts.mixture(*chosen, partial=routing.partial), None
        when = (context.step, context.total_steps) if learning.timed else (0, 1)
        choice = learning.choose(
            routing.index_TK, routing.logits_TN, *when, stands_for=context.compare
        )
        if choice is None:
            hidden = self.experts.mixture(*chosen, partial=routing.partial)
            return hidden, learning.nothing(x_TD)
        if self.experts.takes_further_rows:
            further = FurtherRows(*choice.rows)
            hidden, rows_FD = self.experts.mixture_and_further(
                *chosen, further, partial=routing.partial
            )
            outputs_BnD = rows_FD.view(*choice.token_Bn.shape, -1)
        else:
            hidden = self.experts.mixture(*chosen, partial=routing.partial)
            outputs_BnD = learning.run(choice, x_TD, self._without_dropout)
        return hidden, learning.compare(choice, outputs_BnD)

    def _without_dropout(self, rows_RD: Tensor, count_N: Tensor) -> Tensor:
        out: Tensor = self.experts(rows_RD, count_N, dropout=False)
        return out
