"""A language model of transformers, trained as one of ours: its losses, gradients and routing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from simsmoe_cli.any_moe.handle import attach
from simsmoe_cli.huggingface.language_model import HuggingFaceLanguageModel
from simsmoe_cli.huggingface.model_config import settings_of
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from tests.huggingface.models import MORE, SIZES, VOCABULARY

SIMILARITY = {"preset": "calibrated", "weight": 0.003, "min_tokens": 4, "tokens": 16, "pairs": 3}


def body(kind: str = "Mixtral", **settings: Any) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **MORE[kind], **settings})
    model: nn.Module = getattr(transformers, f"{kind}ForCausalLM")(config)
    return model


def recipe(model: nn.Module, *settings: str) -> Recipe:
    base = {"huggingface": {"folder": "/model", "config": settings_of(model)}}
    changes = [f"similarity={SIMILARITY}", "train.block=16", *settings]
    return load_recipe("continue-huggingface", changes, base)


def wrapped(model: nn.Module, *settings: str) -> HuggingFaceLanguageModel:
    return HuggingFaceLanguageModel(recipe(model, *settings), VOCABULARY, model)


def ids(rows: int = 4) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, 17), generator=torch.Generator().manual_seed(1))


def test_the_losses_are_those_of_transformers() -> None:
    model = body(num_hidden_layers=1)
    tokens = ids()
    ours = wrapped(model).train().score(tokens[:, :-1], tokens[:, 1:])
    theirs = model(input_ids=tokens, labels=tokens, output_router_logits=True)
    shorter = model(input_ids=tokens[:, :-1], output_router_logits=True)
    task = theirs.loss - model.config.router_aux_loss_coef * theirs.aux_loss
    torch.testing.assert_close(ours.nats / tokens[:, 1:].numel(), task)
    # With one layer, transformers' balance loss is that of the layer.
    torch.testing.assert_close(ours.losses["balance"], model_balance(model, shorter))
    assert recipe(model).loss_weights["balance"] == model.config.router_aux_loss_coef


def model_balance(model: nn.Module, output: Any) -> torch.Tensor:
    """transformers' own balance loss, from the logits of the routers."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    config: Any = model.config
    found = load_balancing_loss_func(
        output.router_logits, config.num_local_experts, config.num_experts_per_tok
    )
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("kind", ["Mixtral", "Olmoe", "Qwen3Moe", "GptOss"])
def test_similarity_has_the_gradient_that_attach_adds(kind: str) -> None:
    tokens = ids(8)
    attached = body(kind, num_hidden_layers=1).train()
    everything = {"weight": 0.7, "tokens": 10_000, "budget": None}  # nothing is drawn
    handle = attach(attached, SIMILARITY | everything)
    attached(input_ids=tokens, use_cache=False).logits.sum().backward()
    handle.detach()

    returned = body(kind, num_hidden_layers=1)
    model = wrapped(returned, "similarity.weight=0.7", "similarity.tokens=10000").train()
    found = model(tokens)
    assert found.similarities[0].pairs_due > 0
    (found.logits.sum() + 0.7 * found.losses["similarity"]).backward()
    gradients = {name: part.grad for name, part in returned.named_parameters()}
    assert any("experts" in name for name in gradients)
    for name, parameter in attached.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)


def test_padding_is_not_counted() -> None:
    model = wrapped(body()).eval()
    tokens = ids()
    real_T = torch.tensor([row * 17 + place for row in range(4) for place in range(5 + row)])
    with torch.no_grad():
        padded = model.route(tokens, StepContext(real_T=real_T))
        alone = model.route(tokens[:1, :5], StepContext())
    for layer, first in zip(padded, alone, strict=True):
        assert len(layer.input_TD) == len(real_T)
        torch.testing.assert_close(layer.input_TD[:5], first.input_TD)
        assert torch.equal(layer.index_TK[:5], first.index_TK)


def test_in_evaluation_nothing_is_compared() -> None:
    model = wrapped(body()).eval()
    found = model(ids())
    assert not found.losses
    assert not found.similarities


def test_reading_on_gives_the_logits_of_reading_at_once() -> None:
    model = wrapped(body()).eval()
    tokens = ids(1)
    with torch.no_grad():
        whole = model(tokens).logits[0, -1]
        cache = model.initial_cache(1)
        for place in range(17):
            found = model.read_on(tokens[:, place : place + 1], cache, None)
            cache = found.memory
        routed = model.route(tokens, StepContext())
    torch.testing.assert_close(found.logits_V, whole)
    assert [int(expert_T) for expert_T in found.foremost] == [
        int(layer.index_TK[-1, 0]) for layer in routed
    ]


def test_published_heads_are_trained_with_the_model() -> None:
    model = wrapped(body(), "similarity.preset=published", "similarity.check_every=0").train()
    found = model(ids(16))
    found.losses["similarity"].backward()
    heads = [part for name, part in model.named_parameters() if ".head." in name]
    assert len(heads) == 2 * 2  # weight and bias of two layers
    assert all(part.grad is not None for part in heads)
