"""Residual sub-layers: order of norm and residual, and the inner norm of a MoE."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from simsmoe_cli.model.blocks import SubLayer
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.schema import Recipe


def sublayer(kind: str, **model: Any) -> SubLayer:
    torch.manual_seed(0)
    settings = {"width": 16, "heads": 2, "ffn_hidden": 24, "dropout": 0.0} | model
    recipe = Recipe.model_validate(
        {"model": settings, "moe": {"experts": 4, "hidden": 24, "top_k": 2}}
    )
    return SubLayer(kind, recipe).eval()


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("position", ["pre", "post"])
def test_norm_comes_before_or_after_the_residual(norm: str, position: str) -> None:
    layer, x = sublayer("f", norm=norm, norm_position=position), torch.randn(2, 5, 16)
    if position == "pre":
        expected = x + layer.ffn(layer.norm(x))
    else:
        expected = layer.norm(x + layer.ffn(x))
    torch.testing.assert_close(layer.feed_forward(x), expected)


@pytest.mark.parametrize("inner", ["single", "double"])
def test_a_moe_may_have_a_residual_and_a_norm_inside(inner: str) -> None:
    layer = sublayer("g", norm="layernorm", norm_position="post", moe_norm=inner)
    x, context = torch.randn(2, 5, 16), StepContext()
    mixed = layer.moe(x, context).hidden
    if inner == "double":
        assert layer.inner_norm is not None
        mixed = layer.inner_norm(x + mixed)
    found, output = layer.mix(x, context)
    torch.testing.assert_close(found, layer.norm(x + mixed))
    assert output.routing.index_TK.shape == (10, 2)


def test_swiglu_of_a_dense_sublayer_is_its_formula() -> None:
    layer, x = sublayer("f", activation="swiglu", bias=False), torch.randn(3, 16)
    gate, up = (x @ layer.ffn.w_in.weight.T).chunk(2, dim=-1)
    expected = (torch.nn.functional.silu(gate) * up) @ layer.ffn.w_out.weight.T
    torch.testing.assert_close(layer.ffn(x), expected)
