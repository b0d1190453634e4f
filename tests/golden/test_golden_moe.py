"""The SMoE router and the whole MoE sub-layer equal the published code's, gradients too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simsmoe_cli.model.blocks import SubLayer
from simsmoe_cli.moe.routers.base import RouterInput, RouterSpec, StepContext
from simsmoe_cli.moe.routers.smoe import SMoERouter
from simsmoe_cli.recipe.schema import Recipe

GOLDEN = Path(__file__).parent


def test_smoe_router() -> None:
    golden = load_file(GOLDEN / "router_smoe.safetensors")
    router = SMoERouter(RouterSpec(width=32, num_experts=8, top_k=2))
    router.load_state_dict(
        {"gate.weight": golden["weight.gate.weight"], "gate.bias": golden["weight.gate.bias"]}
    )
    routing = router(golden["x"], RouterInput())
    torch.testing.assert_close(routing.logits_TN, golden["logits"], atol=1e-6, rtol=1e-5)
    ours, our_order = routing.index_TK.sort(-1)
    theirs, their_order = golden["expert_index"].sort(-1)
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(
        routing.weight_TK.gather(1, our_order),
        golden["expert_weight"].gather(1, their_order),
        atol=1e-6,
        rtol=1e-5,
    )
    # Published scaling divides the probabilities' sum by T*K, ours by T.
    torch.testing.assert_close(
        routing.losses["balance"].reshape(1) / 2, golden["balance_loss"], atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("backend", ["grouped", "loop"])
def test_moe_sublayer(backend: str) -> None:
    golden = load_file(GOLDEN / "moe_layer.safetensors")
    recipe = Recipe.model_validate(
        {
            "model": {
                "width": 32,
                "norm": "layernorm",
                "norm_position": "post",
                "moe_norm": "double",
                "activation": "relu",
                "bias": True,
            },
            "moe": {"experts": 8, "hidden": 64, "top_k": 2, "backend": backend},
        }
    )
    layer = SubLayer("g", recipe)
    names = {
        "moe.router.gate.weight": "gate.gate.weight",
        "moe.router.gate.bias": "gate.gate.bias",
        "moe.experts.w_in": "experts.htoh4.weight",
        "moe.experts.b_in": "experts.htoh4.bias",
        "moe.experts.w_out": "experts.h4toh.weight",
        "moe.experts.b_out": "experts.h4toh.bias",
        "inner_norm.weight": "layer_norm.weight",
        "inner_norm.bias": "layer_norm.bias",
    }
    state = {ours: golden[f"weight.{theirs}"] for ours, theirs in names.items()}
    # The golden sub-layer ends with its inner norm: leave the outer one out.
    missing, unexpected = layer.load_state_dict(state, strict=False)
    assert set(missing) == {"norm.weight", "norm.bias"}
    assert not unexpected
    layer._leave = lambda hidden, output: output  # type: ignore[method-assign]
    x = golden["x"].requires_grad_()
    output, _ = layer.mix(x, StepContext())
    torch.testing.assert_close(output, golden["output"], atol=1e-5, rtol=1e-5)
    output.square().sum().backward()
    torch.testing.assert_close(x.grad, golden["grad_x"], atol=1e-5, rtol=1e-5)
    parameters = dict(layer.named_parameters())
    for ours, theirs in names.items():
        torch.testing.assert_close(
            parameters[ours].grad, golden[f"grad.{theirs}"], atol=1e-5, rtol=1e-5
        )
