"""Tiny random mixtures of experts of Hugging Face, saved as a user's are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from simsmoe_cli.collapse.measure.options import Options
from simsmoe_cli.collapse.sources.huggingface.source import HuggingFaceSource
from simsmoe_cli.collapse.sources.open_huggingface import open_huggingface
from simsmoe_cli.errors import EXIT_DATA, UserError

VOCABULARY = 61
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
MORE: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Olmoe": {"num_experts": 6, "num_experts_per_tok": 3},
    "Qwen2Moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 16,
    },
    "Qwen3Moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "head_dim": 16,
    },
    "DeepseekV3": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "first_k_dense_replace": 1,
        "n_group": 2,
        "topk_group": 2,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
    },
    "GptOss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "Llama": {},
}
QUICK = Options(rows=256, tokens=512, blocks=8, resamples=20, rbf_rows=64)
IDS = np.random.default_rng(0).integers(1, VOCABULARY, 1500).astype(np.uint32)


def with_tokenizer(folder: Path, words: int = VOCABULARY) -> Path:
    """Add a tokenizer of words "w1", "w2" and so on to a model's folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {"<unk>": 0, **{f"w{number}": number for number in range(1, words)}}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder


def made(
    kind: str,
    folder: Path,
    change: Callable[[nn.Module], object] = lambda model: None,
    **settings: Any,
) -> Path:
    """Save a tiny model of a kind, changed by a function, and give its folder."""
    import transformers

    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **MORE[kind], **settings})
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    change(model)
    model.save_pretrained(folder)
    return folder


def opened(folder: Path, text: Path | None = None, **options: Any) -> HuggingFaceSource:
    """The folder as a source of a report on a CPU, of a text or else of `IDS`."""
    ids = IDS if text is None else None
    return open_huggingface(folder, text, device=torch.device("cpu"), token_ids=ids, **options)


def refusal(folder: Path, text: Path | None = None) -> str:
    """What is said when the folder is refused, at the latest when its model first runs."""
    with pytest.raises(UserError) as caught:
        next(opened(folder, text).read(64, 64))
    assert caught.value.code == EXIT_DATA
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 1500
    return said


def configured(folder: Path, **changes: Any) -> Path:
    """The folder with settings of config.json changed."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def reweighted(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """The folder with the weights of its one file changed in place."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
