"""Relative attention equals the published code's, output and gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simsmoe_cli.kernels import relative_attention as relative
from simsmoe_cli.model.attention import RelativeAttention

GOLDEN = Path(__file__).parent


@pytest.mark.parametrize("chunk", [1, 3, 8, 128])
def test_relative_attention(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relative, "QUERY_CHUNK", chunk)
    golden = load_file(GOLDEN / "attention.safetensors")
    layer = RelativeAttention(width=32, heads=4, dropout=0.0)
    layer.load_state_dict(
        {
            "query.weight": golden["proj_query.weight"],
            "key.weight": golden["proj_key.weight"],
            "value.weight": golden["proj_val.weight"],
            "out.weight": golden["proj_out.weight"],
        }
    )
    hidden = golden["hidden"].requires_grad_()
    output = layer(hidden, golden["memory"], golden["key_pe"][0])
    torch.testing.assert_close(output, golden["output"], atol=1e-6, rtol=1e-5)
    output.square().sum().backward()
    torch.testing.assert_close(hidden.grad, golden["grad_hidden"], atol=1e-5, rtol=1e-5)
