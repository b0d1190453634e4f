"""What similarity learning costs a foreign model, from its weights alone.

A step is counted as six FLOPs for each weight that multiplies a token (Kaplan et al. 2001.08361);
the products of attention are left out, so a budget is kept with something to spare.

Shapes: T tokens, D width, N experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from simsmoe_cli.any_moe.find_layers import ExpertLayer
from simsmoe_cli.recipe.similarity import SimilaritySettings
from simsmoe_cli.similarity.cost import Cost, comparison_flops


def other_weights(model: nn.Module, layers: Sequence[ExpertLayer]) -> int:
    """Weights outside of experts that multiply every token, per layer of experts: all but vectors
    and lookup tables."""
    left_out = {id(part) for layer in layers for part in layer.experts.parameters()}
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            left_out |= {id(part) for part in module.parameters()}
    parameters = (part for part in model.parameters() if id(part) not in left_out)
    return sum(part.numel() for part in parameters if part.ndim > 1) // len(layers)


def cost_of_layer(
    settings: SimilaritySettings,
    layer: ExpertLayer,
    width: int,
    top_k: int,
    other_weights: int,
    tokens: int,
) -> Cost:
    """What similarity learning costs in one layer, against the layer's share of a step: its active
    experts, and its part of all other weights.

    Args:
        settings: of similarity learning.
        layer: of the model.
        width, top_k: D and K of the layer.
        other_weights: of the model, as `other_weights` gives them.
        tokens: T, of a forward pass.
    """
    weights = sum(part.numel() for part in layer.experts.parameters()) // layer.number
    compared = comparison_flops(settings, width, layer.number, weights, tokens)
    return Cost.within(settings.budget, compared, 6 * (other_weights + weights * top_k) * tokens)
