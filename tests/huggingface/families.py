"""Every mixture of experts that the installed transformers knows, as a tiny random configuration.

A configuration class belongs here when a field of it counts experts, or when one of its parts does.
What keeps a model small goes by the names that configurations have for it; what a family needs
beyond that stands in `MORE`.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassClassValidationError

VOCABULARY = 61
COUNTS_EXPERTS = re.compile(r"(^|_)(n|num)_(local_|routed_)?experts$")
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "embed_dim": 32,
    "out_hidden_size": 32,
    "projection_dim": 32,
    "projector_hidden_size": 32,
    "intermediate_size": 24,
    "ffn_dim": 24,
    "d_ff": 24,
    "mlp_dim": 24,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layers": 2,
    "depth": 2,
    "num_attention_heads": 4,
    "attention_heads": 4,
    "num_heads": 4,
    "n_heads": 4,
    "num_key_value_heads": 4,
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
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "image_token_id": 60,
    "image_token_index": 60,
    "video_token_id": 59,
    "audio_token_id": 58,
    "image_size": 28,
    "patch_size": 14,
    "text_hidden_size": 32,
    "unpadded_vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "zero_expert_num": 2,
    "moe_hidden_size": 32,
    "n_shared_experts": 1,
    "n_hash_layers": 0,
    "downsample_channels": [32, 32],
    "output_channels": 32,
    "global_attn_indexes": [1],
    "pos_emb_height": 2,
    "pos_emb_width": 2,
    "adapter_in_dim": 32,
    "adapter_input_size": 32,
    "sliding_window": 16,
    "adapter_out_dim": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
    "vision_output_dim": 32,
    "expert_ffn_hidden_size": 24,
    "ffn_hidden_size": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "enable_moe_block": True,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 16,
    "audio_hidden_size": 32,
    "blank_token_id": 57,
    "video_temporal_patch_size": 2,
}
LATE = {"mlp_layer_types": ["dense", "sparse"]}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
MORE: dict[str, dict[str, Any]] = {
    "beam": LATE,
    "dbrx": {"attn_config": {"kv_n_heads": 4, "clip_qkv": 8.0, "rope_theta": 1e4}},
    "step3p5": LATE,
    "flint": {"mlp_only_layers": [0]},
    "glm5_next_text": {"qk_rope_head_dim": 0, "head_dim": 0, **LATE},
    "deepseek_ocr2_text": LATE,
    "unlimited_ocr_text": LATE,
    "muse_spark_audio": {"patch_sizes": [4, 4], "hidden_sizes": [16, 16], "depths": [1, 1]},
    "mimo_v2_flash": {"num_key_value_heads": 2},
    "dots3_note_vision_encoder": {"mlp_layer_types": ["dense", "dense"]},
    "zaya": {"num_experts_per_tok": 1},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [24, 12],
        "rope_parameters": {**ROPE, "mrope_section": [1, 1, 2]},
    },
    "glm4v_moe_text": {"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}},
    "hy_v4_vl_text": {"rope_parameters": ROPE},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
}

# Every one that opens, of transformers 5.24.
REPORTED = frozenset(
    re.findall(
        r"\S+",
        """
        afmoe aria aria_text axk1 axk2 bailing_hybrid beam cohere2_moe dbrx deepseek_ocr2
        deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 dots1 dots3_note dots3_note_text
        ernie4_5_moe ernie4_5_vl_moe exaone_moe flex_olmo flint gemma4 gemma4_text glm4_moe
        glm4_moe_lite glm4v_moe glm4v_moe_text glm5_next glm5_next_text glm_moe_dsa gpt_oss
        granitemoe granitemoe_swa granitemoehybrid granitemoeshared hunyuan_v1_moe hy_v3
        hy_v4 hy_v4_vl hy_v4_vl_text inkling2 inkling2_loop inkling2_loop_text inkling2_text
        inkling_mm_model inkling_text jamba jetmoe kimi_k25 kimi_linear kolibri1 laguna
        lara_mini lfm2_moe
        llama4 llama4_text longcat_flash mellum mimo_v2_flash minimax minimax_m2
        minimax_m3_vl minimax_m3_vl_text mistral4 mistral_large4 mistral_large4_text mixtral
        muse_spark muse_spark_text nemo_speechlm nemotron_h nemotron_h_omni olmoe
        openai_privacy_filter phimoe qwen2_moe qwen3_5_moe qwen3_5_moe_text qwen3_moe
        qwen3_next qwen3_omni_moe_thinker qwen3_vl_moe qwen3_vl_moe_text qwen4_exp
        qwen4_exp_text sarvam_mla sarvam_moe solar_open step3p7 switch_transformers
        unlimited_ocr zaya
        """,
    )
)

# The others, and a part of the reason that the user is shown.
ALONE = "cannot run models of type {} alone"
NOT_REPORTED = {
    "deepseek_ocr2_text": ALONE,
    "diffusion_gemma": "it fills blocks of text by diffusion",
    "diffusion_gemma_text": ALONE,
    "doge": "an expert of Doge is one row of an embedding",
    "dots3_note_vision_encoder": ALONE,
    "ernie4_5_vl_moe_text": ALONE,
    "nllb-moe": "other experts run than the router chose",
    "qwen3_omni_moe": "transformers runs this model by generating speech",
    "qwen3_omni_moe_talker_text": ALONE,
    "qwen3_omni_moe_text": ALONE,
    "step3p5": ALONE,
    "unlimited_ocr_text": ALONE,
    "vitpose": "its experts read images of people",
    "vitpose_backbone": "its experts read images of people",
}


def listed() -> bool:
    """Whether this is the version of transformers that the lists were made with."""
    return transformers.__version__.startswith("5.24.")


def families() -> list[str]:
    """Model types. The lists say them at once; a search imports every configuration there is."""
    return sorted({*REPORTED, *NOT_REPORTED}) if listed() else searched()


def searched() -> list[str]:
    """Model types whose configuration counts experts."""
    mapping = transformers.CONFIG_MAPPING
    return [name for name in sorted(mapping) if _counts_experts(mapping[name])]


@cache
def _counts_experts(kind: Any) -> bool:
    """Whether a field of a class counts experts, or one of a part of it, or of a part's part."""
    own = any(map(COUNTS_EXPERTS.search, fields(kind)))
    return own or any(map(_counts_experts, parts(kind).values()))


@cache
def parts(kind: Any) -> dict[str, Any]:
    """Configuration classes of the parts of a class, by the field that holds them."""
    found = {}
    for name, part in (getattr(kind, "sub_configs", None) or {}).items():
        if part is transformers.AutoConfig:  # whatever it is by default
            try:
                part = type(getattr(kind(), name, None))
            except (
                ValueError,
                StrictDataclassClassValidationError,
            ):  # a class whose own defaults contradict each other
                continue
        if part is not type(None):
            found[name] = part
    return found


def fields(kind: type) -> set[str]:
    """The settings a configuration class takes."""
    annotated = {name for base in kind.__mro__ for name in getattr(base, "__annotations__", {})}
    return annotated | set(inspect.signature(kind.__init__).parameters)


def tiny(kind: Any, **changes: Any) -> Any:
    """A configuration of a class with sizes of a few dozen."""
    model_type = getattr(kind, "model_type", "")
    known = fields(kind)
    settings = {name: value for name, value in SMALL.items() if name in known}
    for name, part in parts(kind).items():
        settings[name] = tiny(part).to_dict()
    return kind(**{**settings, **MORE.get(model_type, {}), **changes})
