"""Opens the folder of a Hugging Face mixture of experts as a source of a report.

Weights are read from safetensors alone, in the precision they are stored in; nothing is downloaded,
and no code of the folder is run.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsmoe_cli import __version__
from simsmoe_cli.any_moe.find_layers import ExpertLayer, find_expert_layers
from simsmoe_cli.any_moe.settings import TOP_K_NAMES
from simsmoe_cli.collapse.sources.huggingface.layer_by_layer import LayerwiseSource
from simsmoe_cli.collapse.sources.huggingface.loading import load_model
from simsmoe_cli.collapse.sources.huggingface.source import HuggingFaceSource
from simsmoe_cli.collapse.sources.huggingface.tokenized_text import (
    read_tokens,
    require_known_ids,
)
from simsmoe_cli.collapse.sources.texts import unlike
from simsmoe_cli.collapse.subject import Subject
from simsmoe_cli.errors import DataError, printable
from simsmoe_cli.huggingface.check_weights import UnusualWeights
from simsmoe_cli.huggingface.config_errors import HINT
from simsmoe_cli.huggingface.folder import read_model_folder
from simsmoe_cli.huggingface.foreign_code import transformers_module
from simsmoe_cli.huggingface.model_config import read_config, settings_of

BLOCK = 512
VOCABULARY_NAMES = ("vocab_size", "n_vocab", "padded_vocab_size")
WINDOW_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")


def open_huggingface(
    folder: Path,
    text: Path | Sequence[Path] | None,
    *,
    device: torch.device,
    token_ids: NDArray[Any] | None = None,
    layerwise: bool = True,
) -> HuggingFaceSource:
    """A model folder and a text.

    Args:
        folder: config.json, weights as safetensors, and a tokenizer unless `token_ids` are given.
        text: UTF-8; its first 8 MiB are encoded with the folder's tokenizer. Of several files, as
            many tokens of each, and the routing of each is counted by itself as well.
        token_ids: instead of a text.
        device: where to compute.

    Raises:
        UserError: transformers is missing, the folder cannot be opened, weights of it are missing,
            it has no experts, or the text is too short or does not fit the model.
    """
    transformers = transformers_module()
    files = read_model_folder(folder)
    config = read_config(files, transformers)
    notes: list[str] = []
    tokenizer = None
    texts: list[Path | None] = [text] if text is None or isinstance(text, Path) else [*text]
    domains: dict[str, NDArray[Any]] = {}
    given = token_ids
    if token_ids is None:
        for one in texts:
            tokenizer, ids = read_tokens(one, files, notes)
            domains[unlike(domains, "" if one is None else one.name)] = ids.astype(np.uint32)
        shortest = min(map(len, domains.values()))
        token_ids = np.concatenate([ids[:shortest] for ids in domains.values()])
    loaded = load_model(files, config, device, layerwise=layerwise)
    settings = settings_of(loaded.model)
    require_known_ids(token_ids, loaded.model, folder)
    layers = find_expert_layers(loaded.model)
    _require_choice(config.text, layers, folder)
    unusual = UnusualWeights()
    unusual.look_at(loaded.model.named_parameters())
    notes += loaded.notes
    kind: Any = HuggingFaceSource
    if loaded.weights is not None:
        kind = functools.partial(LayerwiseSource, loaded.weights, unusual)
    source: HuggingFaceSource = kind(
        loaded.model,
        np.asarray(token_ids, dtype=np.uint32),
        tokenizer,
        config.number((*TOP_K_NAMES, "top_k")),
        vocab_size=config.number(VOCABULARY_NAMES),
        predicts=loaded.predicts,
        both_stacks=config.both_stacks,
        suspects=config.suspects,
        subject=Subject(
            kind="huggingface",
            name=folder.resolve().name,
            recipe=str(settings.get("model_type", "")),
            router=type(layers[0].router).__name__ if layers else "",
            similarity="none",
            settings=settings,
            parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
            checkpoint="",
            step=None,
            seed=None,
            simsmoe=__version__,
            torch=torch.__version__,
        ),
        corpus=", ".join(domains) or "token ids",
        split="text",
        unit="token",
        block=min(BLOCK, config.number(WINDOW_NAMES) or BLOCK),
        notes=notes + unusual.notes,
    )
    if len(domains) > 1:
        source.domain_tokens = dict(domains)
    if isinstance(source, LayerwiseSource):
        source.whole = functools.partial(
            open_huggingface, folder, text, device=device, token_ids=given, layerwise=False
        )
    return source


def _require_choice(config: Any, layers: list[ExpertLayer], folder: Path) -> None:
    """Refuse a configuration that gives a token no expert, or more experts than there are."""
    most = max((layer.number + layer.idle for layer in layers), default=0)
    for name in TOP_K_NAMES:  # not top_k, which may be of sampling
        value = getattr(config, name, None)
        if isinstance(value, int) and layers and not 1 <= value <= most:
            raise DataError(
                f"config.json says {name} = {printable(value)}, but a layer has {most:,} experts",
                where=str(folder),
                hint=HINT,
            )
