"""Which tensors an upcycled model has and how they are divided into files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from simsmoe_cli.upcycle.experts import Settings
from simsmoe_cli.upcycle.plan import Output, shards
from simsmoe_cli.upcycle.write import upcycle
from tests.upcycle.models import dense, tensors


def test_files_hold_at_most_what_was_asked_for_or_one_tensor() -> None:
    sizes = [10, 20, 30, 100, 10, 10, 50]
    made = [Output(f"{number}", (size,), "BF16", "") for number, size in enumerate(sizes)]
    divided = shards(made, 120)
    assert [[tensor.count for tensor in file] for file in divided] == [
        [10, 20, 30],
        [100],
        [10, 10],
        [50],
    ]
    assert [tensor for file in divided for tensor in file] == made


def test_an_output_layer_that_is_tied_and_buffers_are_left_out(tmp_path: Path) -> None:
    source = dense("Llama", tmp_path / "dense", tie_word_embeddings=True)
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    upcycle(source, tmp_path / "moe", Settings(2, 1))
    found = tensors(tmp_path / "moe")
    assert not [name for name in found if "lm_head" in name or "rotary" in name]
