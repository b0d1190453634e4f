"""From the configuration of a dense model to that of the mixture of experts it becomes.

Llama and Mistral become Mixtral, Qwen3 becomes Qwen3-MoE, and Qwen2 becomes Qwen2-MoE. Settings
that the new architecture cannot express are refused, because the function would change. Both
configurations are objects of transformers, so that its defaults and older spellings hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsmoe_cli.errors import DataError, UserError, printable
from simsmoe_cli.huggingface.folder import ModelFolder
from simsmoe_cli.huggingface.foreign_code import foreign_code

EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
COPIED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "rope_parameters",
    "attention_dropout",
)
# Fields that may also be absent; None then would not be the same.
OPTIONAL = ("head_dim", "attention_dropout")


@dataclass(frozen=True)
class Layout:
    """How a mixture of experts is laid out on disk.

    Attributes:
        model_type: of transformers.
        architecture: its class in transformers.
        block: what stands for `mlp` in the names of tensors.
        projections: names of the gate, up and down projection of an expert.
        experts_field: the field of config.json that says how many experts there are.
        shared: whether each layer also has an expert that reads every token.
    """

    model_type: str
    architecture: str
    block: str
    projections: tuple[str, str, str]
    experts_field: str
    shared: bool = False


MIXTRAL = Layout(
    "mixtral", "MixtralForCausalLM", "block_sparse_moe", ("w1", "w3", "w2"), "num_local_experts"
)
DENSE_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
LAYOUTS = {
    "llama": MIXTRAL,
    "mistral": MIXTRAL,
    "qwen2": Layout(
        "qwen2_moe", "Qwen2MoeForCausalLM", "mlp", DENSE_PROJECTIONS, "num_experts", shared=True
    ),
    "qwen3": Layout("qwen3_moe", "Qwen3MoeForCausalLM", "mlp", DENSE_PROJECTIONS, "num_experts"),
}
DENSE_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def quantised(how: object, where: Path) -> UserError:
    """The error for weights that are not plain numbers."""
    return DataError(
        f"the weights are quantised ({printable(how)})",
        where=str(where),
        hint="Give a folder of the same model in bf16, fp16 or fp32.",
    )


def require_plain_config(config: dict[str, Any], folder: Path) -> None:
    """Raise a UserError if config.json says that the weights are quantised."""
    for name in ("quantization_config", "compression_config"):
        settings = config.get(name)
        if settings:
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            raise quantised(method or name, folder)


def layout_of(folder: ModelFolder) -> Layout:
    """The layout that a folder's dense model is given.

    Raises:
        UserError: it has experts already, or is of a type that is not supported.
    """
    model_type = folder.config["model_type"]
    if model_type in LAYOUTS:
        return LAYOUTS[model_type]
    supported = f"Supported types: {', '.join(LAYOUTS)}."
    if any(folder.config.get(name) for name in EXPERT_FIELDS):
        raise DataError(
            f"the model ({printable(model_type)}) already is a mixture of experts",
            where=str(folder.path),
            hint=f"Train it as it is (simsmoe.attach), or give a dense model. {supported}",
        )
    raise DataError(
        f"models of type {printable(model_type)} are not supported",
        where=str(folder.path),
        hint=supported,
    )


def read_dense_config(folder: ModelFolder, transformers: Any) -> Any:
    """The configuration of the dense model, with the defaults of transformers.

    Raises:
        UserError: transformers cannot read it, or the mixture of experts cannot express it.
    """
    where = str(folder.path / "config.json")
    kind = transformers.CONFIG_MAPPING[folder.config["model_type"]]
    with foreign_code("transformers cannot read config.json", where):
        config = kind.from_dict(dict(folder.config))
    for name in ("attention_bias", "mlp_bias"):
        if getattr(config, name, False) and (name == "mlp_bias" or config.model_type == "llama"):
            raise DataError(
                f"{name} is true, and {layout_of(folder).architecture} has no such biases",
                where=where,
                hint="Give a model without them.",
            )
    kinds = getattr(config, "layer_types", None) or ()
    if config.model_type.startswith("qwen") and any(kind != "full_attention" for kind in kinds):
        raise DataError(
            f"some layers use a sliding window, which {layout_of(folder).architecture} "
            "cannot have in the same layers",
            where=where,
            hint="Give a model with use_sliding_window false.",
        )
    return config


def moe_config(dense: Any, layout: Layout, experts: int, top_k: int, transformers: Any) -> Any:
    """The configuration of the mixture of experts, an object of transformers."""
    given = dense.to_dict()
    settings = {
        name: given[name]
        for name in COPIED
        if name in given and not (name in OPTIONAL and given[name] is None)
    }
    settings |= {
        "architectures": [layout.architecture],
        "dtype": dense.dtype,
        layout.experts_field: experts,
        "num_experts_per_tok": top_k,
    }
    if layout is MIXTRAL:
        settings["sliding_window"] = given.get("sliding_window")
    else:
        settings |= {
            "moe_intermediate_size": dense.intermediate_size,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "use_sliding_window": False,
        }
        settings |= (
            {"shared_expert_intermediate_size": dense.intermediate_size, "qkv_bias": True}
            if layout.shared
            else {"attention_bias": dense.attention_bias}
        )
    return transformers.CONFIG_MAPPING[layout.model_type](**settings)
