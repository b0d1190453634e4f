"""Counts the arithmetic of a model of ours, from its weights and shapes.

Model FLOPs (Kaplan et al. 2001.08361, Chowdhery et al. 2204.02311): two per weight that multiplies
a token, plus the products of attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from simsmoe_cli.model.blocks import SubLayer
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.similarity.cost import Cost, comparison_flops

if TYPE_CHECKING:
    from simsmoe_cli.model.language_model import Backbone


def forward_flops(model: Backbone, experts_per_token: float | None = None) -> int:
    """Floating-point operations of a token's forward pass.

    Args:
        model: to count.
        experts_per_token: K; that of the first step of training if left out.
    """
    recipe = model.recipe
    k = experts_per_token or recipe.of_router(recipe.moe.router).first_k(recipe.moe)
    return round(2 * _multiplying_weights(model, k) + _attention_flops(model))


def training_flops(model: Backbone) -> int:
    """Floating-point operations of a token in training, without similarity learning: the mean
    over all steps, in which K may grow."""
    recipe = model.recipe
    k = recipe.of_router(recipe.moe.router).mean_k(recipe.moe, recipe.train.steps)
    return 3 * forward_flops(model, k)


def similarity_flops(
    recipe: Recipe, layers: int, forward_flops: int, tokens: int = 0
) -> Cost | None:
    """What similarity learning costs, and how often its budget allows it; None: it is off.

    Args:
        recipe: of the model.
        layers: with experts.
        forward_flops: of a token, at the first step.
        tokens: of one micro-batch; 0: all of its blocks.
    """
    settings, model, train = recipe.similarity, recipe.model, recipe.train
    if not settings.enabled:
        return None
    tokens = tokens or train.batch // train.micro_batches * train.block
    weights = (3 if model.activation == "swiglu" else 2) * model.width * recipe.moe.hidden
    of_layer = comparison_flops(settings, model.width, recipe.moe.experts, weights, tokens)
    return Cost.within(settings.budget, layers * of_layer, 3 * forward_flops * tokens)


def model_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters by name, heads of similarity learning left out."""
    return ((n, p) for n, p in model.named_parameters() if ".similarity." not in n)


def _multiplying_weights(model: Backbone, experts_per_token: float) -> float:
    """Weights a token is multiplied with: matrices, and a share of each stack of experts.

    The embedding is only looked up, and the position table counts as attention. The output layer
    multiplies even when it shares the embedding's weights.
    """
    share = experts_per_token / model.recipe.moe.experts
    tied = hasattr(model, "output") and model.recipe.model.tie_embeddings
    weights = float(model.embedding.weight.numel() if tied else 0)
    for name, parameter in model_parameters(model):
        if name in ("embedding.weight", "position"):
            continue
        if ".experts." in name:
            weights += share * parameter.numel() * (parameter.ndim == 3)
        elif parameter.ndim == 2:
            weights += parameter.numel()
    return weights


def _attention_flops(built: Backbone) -> float:
    """Floating-point operations per token of attention scores and sums, over all attention
    sub-layers.

    Relative: keys, positions and values of `span` positions, and the keys and values of the
    carried memory, projected anew for every block. Rope: keys and values of the positions in the
    window, fewer at the start of a block.
    """
    model, block = built.recipe.model, built.recipe.train.block
    kinds = [layer.kind for layer in built.layers if isinstance(layer, SubLayer)]
    layers = kinds.count("s")
    if model.attention == "relative":
        projections = 2 * 2 * model.width**2 * model.span / block
        return layers * (3 * 2 * model.width * model.span + projections)
    seen = sum(min(position, model.span) for position in range(1, block + 1)) / block
    return layers * 2 * 2 * model.width * seen
