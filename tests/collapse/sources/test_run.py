"""A run as a source of a report: its hidden units, and its tokens as text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from simsmoe_cli.data.store import TokenStore
from tests.collapse.runs import opened, write_run
from tests.train.tiny import recipe


@pytest.mark.parametrize("activation", ["swiglu", "relu"])
def test_hidden_units_are_what_an_expert_is_made_of(
    store: TokenStore, tmp_path: Path, activation: str
) -> None:
    changed = recipe(model={"activation": activation, "bias": activation == "relu"})
    source = opened(write_run(tmp_path / "run", store, recipe=changed), store)
    experts = source.model.moe_layers[1].experts
    parts = source.weights(1)
    x = torch.randn(7, 32)
    for expert in range(4):
        if activation == "swiglu":
            gate, up, leaving = (part[expert] for part in parts)
            out = (F.silu(x @ gate.T) * (x @ up.T)) @ leaving
        else:
            entering, leaving = (part[expert] for part in parts)
            out = F.relu(torch.cat([x, torch.ones(7, 1)], 1) @ entering.T) @ leaving
            assert experts.b_out is not None
            out = out + experts.b_out[expert]
        assert torch.allclose(source.dense(1, x)[expert], out, atol=1e-5)


def test_tokens_are_shown_as_text(store: TokenStore, tmp_path: Path) -> None:
    source = opened(write_run(tmp_path / "run", store), store)
    ids = store.tokenizer.encode("def f").tolist()
    assert source.text_of(ids) == ["d", "e", "f", " ", "f"]
