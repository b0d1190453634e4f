"""Loads all weights of a Hugging Face model into memory, with transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from simsmoe_cli.huggingface.check_weights import LoadingInfo, require_complete
from simsmoe_cli.huggingface.folder import ModelFolder
from simsmoe_cli.huggingface.foreign_code import foreign_code, transformers_module
from simsmoe_cli.huggingface.model_config import ModelConfig
from simsmoe_cli.model.available_memory import require_memory


def load_whole(
    config: ModelConfig, folder: ModelFolder, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """A model of transformers with all its weights in memory.

    Args:
        config: how it is built.
        folder: its files.
        dtype: of its weights in memory.
        device: where to put it.

    Raises:
        UserError: transformers cannot open it, its weights are not all there, or they do not fit
            into memory.
    """
    where = str(folder.path)
    require_memory(folder.numbers * dtype.itemsize, device, where)
    with foreign_code("transformers cannot open this model", where) as heard:
        model, info = config.kind.from_pretrained(
            folder.path,
            config=config.config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            # It is not used: a damaged generation_config.json must not stop a command.
            generation_config=transformers_module().GenerationConfig(),
            **config.options,
        )
        heard.clear()
    require_complete(
        model,
        LoadingInfo(info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"]),
        where,
    )
    loaded: Any = model.to(device)
    return loaded  # type: ignore[no-any-return]
