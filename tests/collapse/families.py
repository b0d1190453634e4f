"""Every mixture of experts that the installed transformers knows, as a tiny random configuration.

A configuration class belongs here when a field of it counts experts, or when one of its parts does.
"""

from __future__ import annotations

import re
from typing import Any

VOCABULARY = 61
COUNTS_EXPERTS = re.compile(r"^(moe_)?(n|num)_(local_|routed_)?experts$|_num_experts$")

# What keeps any model small, by the names that configurations have for it.
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "intermediate_size": 24,
    "ffn_dim": 24,
    "d_ff": 24,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layers": 2,
    "num_attention_heads": 4,
    "num_heads": 4,
    "n_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_top_k": 2,
    "moe_k": 2,
    "top_k_experts": 2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
