"""Chooses the class and configuration of transformers for the model of a config.json.

Families that cannot be measured are refused by name. A configuration that describes a far larger
model than the files hold is refused before it takes memory.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from simsmoe_cli.errors import DataError, UserError, printable
from simsmoe_cli.huggingface.check_weights import require_plain_floats
from simsmoe_cli.huggingface.config_errors import (
    HINT,
    naming_the_field,
    require_finite,
    unusual_fields,
)
from simsmoe_cli.huggingface.folder import DEQUANTISED, ModelFolder
from simsmoe_cli.huggingface.foreign_code import foreign_code
from simsmoe_cli.huggingface.weight_conversion import parameter_names

TOO_MANY = 2**28  # parameters a model may have beyond what its files hold, to name their keys
LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
IMAGES_OF_PEOPLE = "its experts read images of people, not text, and no router chooses among them"
# Families whose experts are not networks that can be compared pair by pair on the same tokens, or
# whose text part cannot be run alone. Shown to the user.
REFUSED = {
    "doge": "an expert of Doge is one row of an embedding, a single hidden unit, and there are "
    "thousands in a layer: no pair of networks to compare",
    "nllb-moe": "transformers 5 passes NLLB's routing to its experts as a mask where they read "
    "indices, so that other experts run than the router chose",
    "vitpose": IMAGES_OF_PEOPLE,
    "vitpose_backbone": IMAGES_OF_PEOPLE,
    "qwen3_omni_moe": "transformers runs this model by generating speech, not on a text; give the "
    "folder of its thinker alone",
    "qwen3_omni_moe_talker": "it writes audio codes for the thinker's states, not text",
    "diffusion_gemma": "it fills blocks of text by diffusion and predicts no next token",
}


@dataclass(frozen=True)
class ModelConfig:
    """The class and configuration with which transformers builds the model of a folder.

    Attributes:
        kind: its class in transformers.
        config: the configuration it is built with.
        text: the configuration of the part that reads text; often the same.
        options: further arguments of `from_pretrained`.
        suspects: fields to check if the model cannot be run, as a hint; may be empty.
    """

    kind: Any
    config: Any
    text: Any
    options: dict[str, Any] = field(default_factory=dict)
    suspects: str = ""

    @property
    def both_stacks(self) -> bool:
        """Whether the model is an encoder and a decoder."""
        return bool(getattr(self.config, "is_encoder_decoder", False))

    def number(self, names: tuple[str, ...]) -> int | None:
        """The first positive number that the text part has under one of these names."""
        for name in names:
            value = getattr(self.text, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        return None

    def without_memory(self) -> nn.Module:
        """The model on the meta device: parameters and buffers have shapes and no numbers."""
        with torch.device("meta"):
            model: nn.Module = self.kind(copy.deepcopy(self.config))
        return model


def read_config(folder: ModelFolder, transformers: Any) -> ModelConfig:
    """The class and configuration of a folder's model.

    Args:
        folder: its files.
        transformers: the package.

    Raises:
        UserError: transformers does not know this type of model or cannot build it, it cannot be
            measured, or config.json does not describe the weights.
    """
    where = str(folder.path)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    model_type = folder.config["model_type"]
    with foreign_code("transformers cannot read config.json", where):
        known = model_type in transformers.CONFIG_MAPPING
    if not known:
        raise _unknown_type(folder, transformers.__version__)
    if model_type in REFUSED:
        raise DataError(
            f"models of type {model_type} cannot be measured: {REFUSED[model_type]}", where=where
        )
    require_finite(folder)
    _require_layers(folder)
    kind = transformers.CONFIG_MAPPING[model_type]
    default: Any = None
    with contextlib.suppress(Exception):
        default = kind()

    def build(settings: dict[str, Any]) -> None:
        config = kind.from_dict(copy.deepcopy(settings))
        chosen(transformers, config, where).without_memory()

    with (
        naming_the_field(folder, default, build),
        foreign_code("transformers cannot read config.json", where),
    ):
        config = transformers.AutoConfig.from_pretrained(folder.path, **options)
        config.get_text_config(decoder=True)
    found = chosen(transformers, config, where)
    if folder.quantised:
        options["quantization_config"] = _dequantise(folder, transformers)
    with (
        naming_the_field(folder, default, build),
        foreign_code("transformers cannot build the model of config.json", where),
    ):
        model = found.without_memory()
    _require_plausible(model, folder)
    if not folder.quantised:
        parameter_of = parameter_names(model, folder.tensors)
        require_plain_floats(model, folder.tensors, parameter_of, where)
    return replace(found, options=options, suspects=unusual_fields(folder.config, default))


def chosen(transformers: Any, config: Any, where: str) -> ModelConfig:
    """Choose how the model of a configuration is built."""
    text = config.get_text_config(decoder=True)
    kind = _class_for(transformers, config, where)
    if kind.config_class is not type(config) and kind.config_class is type(text):
        config = text
    return ModelConfig(kind, config, text)


def _class_for(transformers: Any, config: Any, where: str) -> Any:
    """The class of transformers that runs a configuration's model on text.

    For a model that also reads images, it is the class of the text part if transformers has one,
    else the class that config.json names.
    """
    text_config = config.get_text_config(decoder=True)
    if text_config is not config:
        text_alone = class_of(transformers.AutoModelForCausalLM, config)
        if text_alone is not None and text_alone.config_class is type(text_config):
            return text_alone
    named = getattr(config, "architectures", None)
    name = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    kind = getattr(transformers, name, None) if name.isidentifier() else None
    if getattr(kind, "config_class", None) is not type(config):
        name = ""
    elif name.endswith(LANGUAGE_MODELS):
        return kind
    autos = ["AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForSeq2SeqLM"]
    if name and not name.endswith(LANGUAGE_MODELS):
        autos.insert(0, "AutoModel")
    if text_config is not config:
        autos.reverse()
    for auto in (*autos, "AutoModel"):
        if (found := class_of(getattr(transformers, auto), config)) is not None:
            return found
    raise DataError(
        f"transformers cannot run models of type {printable(config.model_type)} alone",
        where=where,
        hint="This is a part of a larger model: give the folder of the whole one.",
    )


def class_of(auto: Any, config: Any) -> Any:
    """The class an Auto class of transformers has for a configuration; None if it has no class."""
    try:
        found = auto._model_mapping[type(config)]
    except KeyError:
        return None
    return found[0] if isinstance(found, (tuple, list)) else found


def _require_layers(folder: ModelFolder) -> None:
    """Refuse a configuration of no layers, or of more than the files hold tensors."""
    for name, layers in _layer_counts(folder.config):
        none = name in ("num_hidden_layers", "num_layers", "n_layers") and layers < 1
        if none or layers > len(folder.tensors):
            raise DataError(
                f"config.json says {name} = {printable(layers)}, but the files hold "
                f"{len(folder.tensors):,} weight tensors",
                where=str(folder.path),
                hint=HINT,
            )


def _require_plausible(model: nn.Module, folder: ModelFolder) -> None:
    """Refuse a configuration of a far larger model than the files hold."""
    expected = sum(parameter.numel() for parameter in model.parameters())
    held = folder.numbers * (2 if folder.quantised else 1)  # mxfp4 packs two into each number
    if expected > held + max(held, TOO_MANY):
        raise DataError(
            f"config.json describes a model of {expected:,} parameters, but the files hold only "
            f"{folder.numbers:,}",
            where=str(folder.path),
            hint=HINT,
        )


def _layer_counts(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The settings for the number of layers, in a configuration and its parts."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _layer_counts(value)
        elif isinstance(value, int) and re.fullmatch(r"(num|n)_(\w+_)?layers?|depth", name):
            yield name, value


def _unknown_type(folder: ModelFolder, version: str) -> UserError:
    kind = printable(folder.config["model_type"])
    if "auto_map" in folder.config:
        return DataError(
            f"transformers {version} does not know models of type {kind}, and this folder brings "
            "code of its own for them, which is never run",
            where=str(folder.path),
            hint="Use a version of transformers that knows this type, if there is one.",
        )
    return DataError(
        f"transformers {version} does not know models of type {kind}",
        where=str(folder.path),
        hint="Install a newer one: pip install --upgrade transformers.",
    )


def _dequantise(folder: ModelFolder, transformers: Any) -> Any:
    """The setting with which quantised weights are converted to plain numbers when they are
    read."""
    method = folder.quantised
    absent = [name for name in DEQUANTISED[method] if importlib.util.find_spec(name) is None]
    if absent:
        raise DataError(
            f"the weights are quantised ({method}), and transformers reads these only with "
            f"{', '.join(absent)}",
            where=str(folder.path),
            hint=f"Install it: pip install {' '.join(absent)}",
        )
    settings = dict(folder.config.get("quantization_config") or {})
    name = "Mxfp4Config" if method == "mxfp4" else "FineGrainedFP8Config"
    with foreign_code("config.json describes the quantised weights wrongly", str(folder.path)):
        return getattr(transformers, name).from_dict({**settings, "dequantize": True})


def settings_of(model: nn.Module) -> dict[str, Any]:
    """A model's configuration as plain values, without where it was read from."""
    found = json.loads(model.config.to_json_string(use_diff=False))  # type: ignore[operator, union-attr]
    return _without_origin(found)


def _without_origin(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_origin(value) if isinstance(value, dict) else value
        for name, value in settings.items()
        if name != "_name_or_path"
    }
