"""Loads a Hugging Face model with transformers: layer by layer if possible, else completely.

A model is refused unless all its weights are there, and unless it fits into memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from simsmoe_cli.collapse.sources.huggingface.layer_weights import LayerWeights, stored_dtype
from simsmoe_cli.huggingface.check_weights import require_complete
from simsmoe_cli.huggingface.folder import ModelFolder
from simsmoe_cli.huggingface.foreign_code import foreign_code
from simsmoe_cli.huggingface.load_whole import load_whole
from simsmoe_cli.huggingface.model_config import (
    LANGUAGE_MODELS,
    ModelConfig,
)
from simsmoe_cli.model.precision import choose_precision


@dataclass
class Loaded:
    """A model with all its weights.

    Attributes:
        model: of transformers, in evaluation mode.
        predicts: whether its logits are of the next token.
        weights: reads its decoder layers when they are needed; None: all are in memory.
        notes: notes for the reader of the report.
    """

    model: nn.Module
    predicts: bool
    weights: LayerWeights | None = None
    notes: list[str] = field(default_factory=list)


def load_model(
    folder: ModelFolder, config: ModelConfig, device: torch.device, *, layerwise: bool = True
) -> Loaded:
    """Open a model, in the precision that `computed_in` says.

    Args:
        folder: its files.
        config: how it is built.
        device: where to compute.
        layerwise: whether its decoder layers stay in the files until they are needed, if possible.

    Raises:
        UserError: transformers cannot open it, its weights are not all there, or they do not fit
            into memory.
    """
    where = str(folder.path)
    dtype = computed_in(folder, device)
    weights = None
    with foreign_code("transformers cannot open this model", where) as heard:
        if layerwise and not config.both_stacks and not folder.quantised:
            weights = LayerWeights.of(config.kind, config.config, folder.tensors, dtype, device)
        heard.clear()
    if weights is not None:
        model = weights.model
        require_complete(model, weights.info, where)
        with foreign_code("transformers cannot open this model", where):
            weights.load_rest()
    else:
        model = load_whole(config, folder, dtype, device)
    predicts = type(model).__name__.endswith(LANGUAGE_MODELS) and not config.both_stacks
    loaded = Loaded(model.eval(), predicts, weights)
    if config.both_stacks:
        loaded.notes.append("encoder and decoder both read this text, so no loss is measured")
    elif not predicts:
        loaded.notes.append("the model does not predict the next token, so no loss is measured")
    if folder.quantised:
        computed = str(next(model.parameters()).dtype).removeprefix("torch.")
        loaded.notes.append(f"weights stored as {folder.quantised}, computed as {computed}")
    return loaded


def computed_in(folder: ModelFolder, device: torch.device) -> torch.dtype:
    """The precision a model is computed in. On a GPU it is that of the stored weights.

    On a CPU it is fp32, which needs no rounding; weights in bf16 stay in bf16 on a CPU that is
    faster with it.
    """
    stored = stored_dtype(folder.tensors.values())
    if device.type == "cpu" and not (
        stored == torch.bfloat16 and choose_precision(device).name == "bf16"
    ):
        return torch.float32
    return torch.float32 if stored == torch.float64 else stored
