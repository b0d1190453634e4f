"""The backbone: memory, causality, structure, losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.recipe.schema import Recipe

PAPER = {
    "attention": "relative",
    "span": 6,
    "norm": "layernorm",
    "norm_position": "post",
    "moe_norm": "double",
    "activation": "relu",
    "bias": True,
}


def model(vocab_size: int = 11, **settings: Any) -> LanguageModel:
    torch.manual_seed(0)
    recipe = {
        "model": {"pattern": "sgf", "repeats": 2, "width": 16, "heads": 2, "ffn_hidden": 24}
        | settings,
        "moe": {"experts": 4, "hidden": 24},
    }
    return LanguageModel(Recipe.model_validate(recipe), vocab_size).eval()


@pytest.mark.parametrize("settings", [PAPER, PAPER | {"norm_position": "pre"}], ids=["post", "pre"])
@pytest.mark.parametrize("block", [1, 4, 6, 8])
def test_blocks_with_memory_equal_one_long_block(settings: dict[str, Any], block: int) -> None:
    lm = model(**settings)
    tokens = torch.randint(0, 11, (3, 24))
    whole = lm(tokens).logits
    memory: list[torch.Tensor] = []
    parts = []
    for start in range(0, 24, block):
        output = lm(tokens[:, start : start + block], memory)
        memory = output.memory
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", [PAPER, {}, {"span": 3}], ids=["relative", "rope", "window"])
def test_no_position_sees_a_later_token(settings: dict[str, Any]) -> None:
    lm = model(**settings)
    tokens = torch.randint(0, 11, (1, 12))
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 11
    before, after = lm(tokens).logits, lm(changed).logits
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7], after[:, 7])


def test_memory_is_detached() -> None:
    lm = model(**PAPER)
    first = lm(torch.randint(0, 11, (1, 8)))
    assert all(not memory.requires_grad for memory in first.memory)


def test_losses_are_summed_over_layers() -> None:
    output = model(**PAPER)(torch.randint(0, 11, (2, 8)))
    assert len(output.moe) == 2
    total = sum(layer.losses["balance"] for layer in output.moe)
    torch.testing.assert_close(output.losses["balance"], total)


def test_tied_embeddings_share_one_matrix() -> None:
    tied, untied = model(tie_embeddings=True), model()
    assert tied.output.weight is tied.embedding.weight
    difference = sum(p.numel() for p in untied.parameters()) - sum(
        p.numel() for p in tied.parameters()
    )
    assert difference == 11 * 16


@pytest.mark.parametrize("settings", [PAPER, {}], ids=["paper", "modern"])
def test_every_parameter_learns(settings: dict[str, Any]) -> None:
    lm = model(**settings).train()
    output = lm(torch.randint(0, 11, (4, 16)))
    (output.logits.square().mean() + output.losses["balance"]).backward()
    idle = [name for name, p in lm.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
