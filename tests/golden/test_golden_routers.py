"""The XMoE and StableMoE of SimSMoE's published code, `published: true` in a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simsmoe_cli import registry
from simsmoe_cli.moe.routers.base import Router, RouterInput, RouterSpec
from simsmoe_cli.recipe.routers import RouterSettings, StableMoESettings, XMoESettings

GOLDEN = Path(__file__).parent
CASES: list[tuple[str, RouterSettings, dict[str, str]]] = [
    (
        "xmoe",
        XMoESettings(published=True),
        {"embeddings": "expert_embeddings", "projection.weight": "inp_reduction.weight"},
    ),
    ("stablemoe", StableMoESettings(published=True), {"embeddings": "expert_embeddings"}),
]


def published(name: str, settings: RouterSettings) -> Router:
    spec = RouterSpec(width=32, num_experts=8, top_k=2, settings=settings)
    router = registry.load("routers", name)(spec)
    assert isinstance(router, Router)
    return router


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "settings", "names"), CASES, ids=lambda case: str(case)[:9])
def test_router(name: str, settings: RouterSettings, names: dict[str, str], training: bool) -> None:
    golden = load_file(GOLDEN / f"router_{name}.safetensors")
    router = published(name, settings).train(training)
    router.load_state_dict({ours: golden[f"weight.{theirs}"] for ours, theirs in names.items()})
    routing = router(golden["x"], RouterInput())
    torch.testing.assert_close(routing.logits_TN, golden["logits"], atol=1e-5, rtol=1e-5)
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


@pytest.mark.parametrize(("name", "settings", "names"), CASES, ids=lambda case: str(case)[:9])
def test_embeddings_start_as_published(
    name: str, settings: RouterSettings, names: dict[str, str]
) -> None:
    """The published ones are as they were drawn: orthogonal rows of norm 0.32."""
    golden = load_file(GOLDEN / f"router_{name}.safetensors")
    drawn = golden["weight.expert_embeddings"]
    ours = dict(published(name, settings).named_parameters())["embeddings"].detach()
    assert ours.shape == drawn.shape
    torch.testing.assert_close(ours @ ours.T, drawn @ drawn.T, atol=1e-6, rtol=1e-5)
