"""Tiny random dense models of Hugging Face, saved as a user's are, and what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "initializer_range": 0.15,
}
MORE: dict[str, dict[str, Any]] = {
    "Llama": {"head_dim": 12},
    "Mistral": {"sliding_window": 8},
    "Qwen2": {},
    "Qwen3": {"head_dim": 12, "attention_bias": True},
}
KINDS = tuple(MORE)
TOKENS = torch.arange(1, 49).reshape(2, 24)


def dense(kind: str, folder: Path, shard: str = "5GB", **settings: Any) -> Path:
    """Save a dense model whose biases and norms are not the trivial ones."""
    dtype = settings.pop("dtype", torch.float32)
    config = getattr(transformers, f"{kind}Config")(**(SIZES | MORE[kind] | settings))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
        for weight in model.parameters():
            if weight.ndim == 1:
                torch.nn.init.normal_(weight, 1.0, 0.2)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


def logits(folder: Path) -> Tensor:
    """What a model computes, with the class that its config.json names."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        found: Tensor = model(TOKENS).logits
    return found


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's weights."""
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
