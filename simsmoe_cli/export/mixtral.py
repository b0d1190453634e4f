"""Converts a model to Hugging Face's Mixtral layout (Jiang et al. 2401.04088), if it fits.

A layer of Mixtral is attention with rotary positions and a sliding window, then experts with SwiGLU
behind a linear router, both pre-norm with RMSNorm and without biases. Its router renormalises the
softmax over all experts over the K largest, which equals the softmax over these K. Tensors have
the names of published checkpoints: w1 is the gate of an expert, w3 its up projection, w2 its down
projection.

Shapes: N experts, D model width, H expert hidden width, E = 2H.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from simsmoe_cli.errors import UserError
from simsmoe_cli.model.blocks import NORM_EPS, SubLayer
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.recipe.schema import Recipe

ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}


def require_mixtral(recipe: Recipe) -> None:
    """Raise a UserError that names every setting that does not fit."""
    model, moe = recipe.model, recipe.moe
    kinds = model.sublayers
    wanted: list[tuple[str, object, object]] = [
        ("model.attention", model.attention, "rope"),
        ("model.norm", model.norm, "rmsnorm"),
        ("model.norm_position", model.norm_position, "pre"),
        ("model.moe_norm", model.moe_norm, "single"),
        ("model.activation", model.activation, "swiglu"),
        ("model.bias", model.bias, False),
        ("moe.router", moe.router, "smoe"),
    ]
    if kinds != "sg" * (len(kinds) // 2):
        wanted.insert(0, ("model.pattern", model.pattern, "sg"))
    different = [
        f"{path} is {_shown(given)}, not {_shown(needed)}"
        for path, given, needed in wanted
        if given != needed
    ]
    if different:
        raise UserError(
            f"this model does not have the layout of Mixtral: {'; '.join(different)}",
            where="--format mixtral",
            hint="Export it with --format simsmoe.",
        )


def mixtral_config(recipe: Recipe, vocab_size: int) -> dict[str, Any]:
    """The content of config.json."""
    model, moe = recipe.model, recipe.moe
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "dtype": "float32",
        "torch_dtype": "float32",
        "vocab_size": vocab_size,
        "hidden_size": model.width,
        "intermediate_size": moe.hidden,
        "num_hidden_layers": model.sublayers.count("s"),
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.heads,
        "head_dim": model.width // model.heads,
        "hidden_act": "silu",
        "max_position_embeddings": max(recipe.train.block, model.span),
        "sliding_window": model.span,
        "rope_theta": model.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_base},
        "rms_norm_eps": NORM_EPS,
        "num_local_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
        "router_aux_loss_coef": 0.0,
        "router_jitter_noise": 0.0,
        "output_router_logits": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": model.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "use_cache": True,
    }


def mixtral_tensors(model: LanguageModel) -> dict[str, Tensor]:
    """The content of model.safetensors, on the CPU.

    Args:
        model: `require_mixtral` accepts its recipe.
    """
    found = {"model.embed_tokens.weight": model.embedding.weight}
    for number, layer in enumerate(model.layers):
        assert isinstance(layer, SubLayer)
        prefix = f"model.layers.{number // 2}."
        if layer.kind == "s":
            found[prefix + "input_layernorm.weight"] = layer.norm.get_parameter("weight")
            for theirs, ours in ATTENTION.items():
                name = f"{ours}.weight"
                found[f"{prefix}self_attn.{theirs}.weight"] = layer.attention.get_parameter(name)
            continue
        found[prefix + "post_attention_layernorm.weight"] = layer.norm.get_parameter("weight")
        gate_ND = layer.moe.router.get_parameter("gate.weight")
        found[prefix + "block_sparse_moe.gate.weight"] = gate_ND
        experts = layer.moe.experts
        for expert, (w_in_ED, w_out_DH) in enumerate(zip(experts.w_in, experts.w_out, strict=True)):
            w_gate_HD, w_up_HD = w_in_ED.chunk(2)
            own = f"{prefix}block_sparse_moe.experts.{expert}."
            found |= {
                own + "w1.weight": w_gate_HD,
                own + "w2.weight": w_out_DH,
                own + "w3.weight": w_up_HD,
            }
    found["model.norm.weight"] = model.norm.get_parameter("weight")
    if not model.recipe.model.tie_embeddings:
        found["lm_head.weight"] = model.output.weight
    # Copies, because safetensors refuses tensors that share memory.
    return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
