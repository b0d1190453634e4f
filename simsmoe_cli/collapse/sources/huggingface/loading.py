"""A Hugging Face model opened with transformers, and refused unless all its weights are there.

transformers fills what a folder lacks with random numbers and drops what it does not know. Here
whatever is missing, of another shape, or left over in a part that the model has, is an error that
names the keys. What transformers and its libraries print is kept off the terminal, and whatever
they raise becomes one line.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simsmoe_cli.collapse.available_memory import require_memory
from simsmoe_cli.collapse.sources.huggingface.folder import DEQUANTISED, ModelFolder
from simsmoe_cli.collapse.sources.huggingface.layer_weights import (
    LayerWeights,
    headers,
    stored_dtype,
)
from simsmoe_cli.errors import EXIT_DATA, UserError, listed, printable
from simsmoe_cli.model.precision import choose_precision

TOO_MANY = 2**28  # numbers that no file holds, for which no memory is taken to name their keys
MOST_AHEAD = 64  # layers that predict further tokens; models have one to three
COMPUTED = re.compile(r"rotary_emb\.|masked_bias|position_ids")  # that old folders have stored
RUST_PANIC = "PanicException"  # of the tokenizers, and no Exception
LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
IMAGES_OF_PEOPLE = "its experts read images of people, not text, and no router chooses among them"
# Families whose experts are no networks that can be compared pair by pair on the same tokens, or
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


@dataclass
class Loaded:
    """A model with all its weights.

    Attributes:
        model: of transformers, in evaluation mode.
        text_config: the configuration of the part that reads text.
        predicts: whether its logits are of the next token.
        both_stacks: whether it is an encoder and a decoder.
        weights: what reads its decoder layers when they are needed; None: all are in memory.
        notes: what a reader of the report should know.
    """

    model: nn.Module
    text_config: Any
    predicts: bool
    both_stacks: bool
    weights: LayerWeights | None = None
    notes: list[str] = field(default_factory=list)


def transformers_module() -> Any:
    """The package transformers.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise UserError(
            "reading a Hugging Face model needs transformers",
            hint="Install it: pip install 'simsmoe[hf]'",
        ) from None


def load_model(folder: ModelFolder, device: torch.device, *, layerwise: bool = True) -> Loaded:
    """Open a model, in the precision that `computed_in` says.

    Args:
        folder: its files.
        device: where to compute.
        layerwise: whether its decoder layers are left in the files until they are needed, where
            that can be done.

    Raises:
        UserError: transformers cannot open it, its weights are not all there, or they do not fit
            into memory.
    """
    transformers = transformers_module()
    where = str(folder.path)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    model_type = folder.config["model_type"]
    with foreign_code("transformers cannot read config.json", where):
        known = model_type in transformers.CONFIG_MAPPING
    if not known:
        raise _unknown(folder, transformers.__version__)
    if model_type in REFUSED:
        raise UserError(
            f"models of type {model_type} are not measured: {REFUSED[model_type]}",
            where=where,
            code=EXIT_DATA,
        )
    with foreign_code("transformers cannot read config.json", where):
        config = transformers.AutoConfig.from_pretrained(folder.path, **options)
        text_config = config.get_text_config(decoder=True)
    kind = _class_for(transformers, config, where)
    if kind.config_class is not type(config) and kind.config_class is type(text_config):
        config = text_config
    if folder.quantised:
        options["quantization_config"] = _dequantise(folder, transformers)
    with foreign_code("transformers cannot build the model of config.json", where):
        _require_plausible(kind, config, folder)
    both = bool(getattr(config, "is_encoder_decoder", False))
    dtype = computed_in(folder.files, device)
    weights = None
    with foreign_code("transformers cannot open this model", where) as heard:
        if layerwise and not both and not folder.quantised:
            weights = LayerWeights.of(kind, config, folder.files, dtype, device)
        heard.clear()
    if weights is not None:
        model, info = weights.model, weights.info
        _require_convertible(info.broken, where)
        require_complete(model, info.missing, info.unexpected, info.mismatched, where)
        with foreign_code("transformers cannot open this model", where):
            weights.load_rest()
    else:
        model = _load_whole(kind, config, folder, dtype, device, options)
    predicts = type(model).__name__.endswith(LANGUAGE_MODELS) and not both
    loaded = Loaded(model.eval(), text_config, predicts, both, weights)
    if both:
        loaded.notes.append("encoder and decoder both read this text, so no loss is measured")
    elif not predicts:
        loaded.notes.append("the model predicts no next token, so no loss is measured")
    if folder.quantised:
        loaded.notes.append(f"weights stored as {folder.quantised}, computed as {_dtype(model)}")
    return loaded


def computed_in(files: tuple[Path, ...], device: torch.device) -> torch.dtype:
    """What a model is computed in: what its weights are stored in, or fp32.

    A GPU computes what is stored. On a CPU it is fp32, into which all weights go unrounded, but for
    weights in bf16 on a CPU that is faster in it.
    """
    stored = stored_dtype(headers(files))
    if device.type == "cpu" and not (
        stored == torch.bfloat16 and choose_precision(device).name == "bf16"
    ):
        return torch.float32
    return torch.float32 if stored == torch.float64 else stored


def _load_whole(
    kind: Any,
    config: Any,
    folder: ModelFolder,
    dtype: torch.dtype,
    device: torch.device,
    options: dict[str, Any],
) -> nn.Module:
    """A model with all its weights in memory."""
    where = str(folder.path)
    require_memory(folder.numbers * dtype.itemsize, device, where)
    with foreign_code("transformers cannot open this model", where) as heard:
        model, info = kind.from_pretrained(
            folder.path,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
        heard.clear()
    require_complete(
        model, info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"], where
    )
    loaded: nn.Module = model.to(device)
    return loaded


def _require_convertible(broken: Iterable[str], where: str) -> None:
    if names := list(broken):
        raise UserError(
            "transformers cannot open this model: the tensors in the files cannot be put together "
            f"to {_listed(names)}",
            where=where,
            code=EXIT_DATA,
        )


def require_complete(
    model: nn.Module,
    missing: Iterable[str],
    unexpected: Iterable[str],
    mismatched: Iterable[tuple[str, Any, Any]],
    where: str,
) -> None:
    """Refuse a model whose weights are not all its own.

    Args:
        model: as its configuration builds it.
        missing: names it has and the folder has not; tied weights and what transformers knows to be
            absent left out.
        unexpected: names the folder has and the model has not. Those of parts the model does not
            have at all (a vision tower, layers that predict further tokens) are no fault.
        mismatched: names, and the shapes in the folder and in the model.
        where: the folder.

    Raises:
        UserError: names the first ten of each.
    """
    modules = {name for name, _ in model.named_modules()}
    base = str(getattr(model, "base_model_prefix", ""))
    ahead = _layers_ahead(model)
    strange = [
        name
        for name in unexpected
        if _of_known_part(name, modules, base) and not any(layer in name for layer in ahead)
    ]
    shapes = [
        f"{name} ({_shape(found)} in the file, {_shape(wanted)} in config.json)"
        for name, found, wanted in mismatched
    ]
    faults = [
        f"{label}: {_listed(names)}"
        for label, names in (
            ("missing", list(missing)),
            ("of another shape", shapes),
            ("unknown to the model", strange),
        )
        if names
    ]
    if faults:
        raise UserError(
            f"weights and config.json do not agree; {'; '.join(faults)}",
            where=where,
            hint="Download the folder again: a report on weights that are not there means nothing.",
            code=EXIT_DATA,
        )


@dataclass
class StrangeWeights:
    """Weights that are not numbers, or nothing but zeros, by name."""

    undefined: list[str] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)

    def look_at(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Look at parameters of any shape; those without memory are passed over."""
        for name, tensor in named:
            if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
                continue
            ends = torch.stack(torch.aminmax(tensor.detach()))  # NaN where there is one
            if not ends.isfinite().all():
                self.undefined.append(name)
            elif tensor.ndim >= 2 and not re.search(r"bias|pos", name) and not ends.any():
                self.zero.append(name)

    @property
    def notes(self) -> list[str]:
        """What there is to say of them."""
        found = []
        if self.undefined:
            found.append(
                f"weights that are not finite (NaN or infinite): {_listed(self.undefined)}"
            )
        if self.zero:
            found.append(f"weights that are all zero: {_listed(self.zero)}")
        return found


@contextlib.contextmanager
def foreign_code(what: str, where: str) -> Iterator[list[str]]:
    """Run code of others: it prints nothing, and whatever it raises becomes one UserError.

    Running out of memory and being stopped go through. Gives the list of what was logged.

    Args:
        what: what could not be done, if something is raised.
        where: the folder or file.
    """
    heard: list[str] = []
    try:
        with _quiet(heard):
            yield heard
    except (UserError, MemoryError):
        raise
    except BaseException as error:
        foreign = isinstance(error, Exception) or type(error).__name__ == RUST_PANIC
        if not foreign or _out_of_memory(error):
            raise
        reason = _reason(error, heard)
        raise UserError(f"{what}: {reason}", where=where, code=EXIT_DATA) from None


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Keep off the terminal what compiled code writes to file descriptor 2, such as a panic."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no such descriptor
        yield
        return
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _class_for(transformers: Any, config: Any, where: str) -> Any:
    """The class of transformers that runs a configuration's model on text.

    For a model that also reads images it is the text part alone if transformers has one, else the
    class that its folder names.
    """
    text_config = config.get_text_config(decoder=True)
    if text_config is not config:
        text_alone = _mapped(transformers.AutoModelForCausalLM, config)
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
        if (found := _mapped(getattr(transformers, auto), config)) is not None:
            return found
    raise UserError(
        f"transformers cannot run models of type {printable(config.model_type)} alone",
        where=where,
        hint="This is a part of a larger model: give the folder of the whole one.",
        code=EXIT_DATA,
    )


def _mapped(auto: Any, config: Any) -> Any:
    """The class an Auto class of transformers has for a configuration; None for none."""
    try:
        found = auto._model_mapping[type(config)]
    except KeyError:
        return None
    return found[0] if isinstance(found, (tuple, list)) else found


def _require_plausible(kind: Any, config: Any, folder: ModelFolder) -> None:
    """Refuse a configuration of a far larger model than the files hold, before it takes memory."""
    tensors, numbers = folder.tensors, folder.numbers
    for name, layers in _layer_counts(folder.config):
        if layers > tensors:
            raise UserError(
                f"config.json says {name} = {printable(layers)}, and there are {tensors:,} weight "
                "tensors in all",
                where=str(folder.path),
                code=EXIT_DATA,
            )
    with torch.device("meta"):
        model = kind(copy.deepcopy(config))
    expected = sum(parameter.numel() for parameter in model.parameters())
    held = numbers * (2 if folder.quantised else 1)  # mxfp4 has two in each of its numbers
    if expected > held + max(held, TOO_MANY):
        raise UserError(
            f"config.json describes a model of {expected:,} parameters, and the files hold "
            f"{numbers:,}",
            where=str(folder.path),
            hint="Download the folder again, or give the config.json of these weights.",
            code=EXIT_DATA,
        )


def _layer_counts(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The settings that say how many layers there are, of a configuration and of its parts."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _layer_counts(value)
        elif isinstance(value, int) and re.fullmatch(r"(num|n)_(\w+_)?layers?|depth", name):
            yield name, value


def _unknown(folder: ModelFolder, version: str) -> UserError:
    kind = printable(folder.config["model_type"])
    if "auto_map" in folder.config:
        return UserError(
            f"transformers {version} does not know models of type {kind}, and this folder brings "
            "code of its own for them, which is never run",
            where=str(folder.path),
            hint="Use a version of transformers that knows this type, if there is one.",
            code=EXIT_DATA,
        )
    return UserError(
        f"transformers {version} does not know models of type {kind}",
        where=str(folder.path),
        hint="Install a newer one: pip install --upgrade transformers.",
        code=EXIT_DATA,
    )


def _dequantise(folder: ModelFolder, transformers: Any) -> Any:
    """The setting that makes plain numbers of quantised weights when they are read."""
    method = folder.quantised
    absent = [name for name in DEQUANTISED[method] if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(
            f"the weights are quantised ({method}), and transformers reads these only with "
            f"{', '.join(absent)}",
            where=str(folder.path),
            hint=f"Install it: pip install {' '.join(absent)}",
            code=EXIT_DATA,
        )
    settings = dict(folder.config.get("quantization_config") or {})
    name = "Mxfp4Config" if method == "mxfp4" else "FineGrainedFP8Config"
    with foreign_code("config.json describes the quantised weights wrongly", str(folder.path)):
        return getattr(transformers, name).from_dict({**settings, "dequantize": True})


def _of_known_part(name: str, modules: set[str], base: str) -> bool:
    """Whether a weight lies in a part that the model has: below its root and its backbone."""
    parent = name
    while "." in parent:
        parent = parent.rpartition(".")[0]
        if parent in modules:
            return parent not in ("", base) and not COMPUTED.search(name)
    return False


def _layers_ahead(model: nn.Module) -> list[str]:
    """Names of the layers after the last, by which a model predicts several tokens ahead."""
    config = model.config.get_text_config(decoder=True)  # type: ignore[operator, union-attr]
    last, ahead = (
        value if isinstance(value := getattr(config, name, None), int) else 0
        for name in ("num_hidden_layers", "num_nextn_predict_layers")
    )
    return [f"layers.{last + number}." for number in range(min(ahead, MOST_AHEAD))]


def _dtype(model: nn.Module) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def _shape(sizes: Any) -> str:
    return "x".join(str(size) for size in sizes) or "one number"


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names, key=_natural)
    return listed(ordered, longest=160)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, (RuntimeError, OSError))
        and any(
            sign in text for sign in ("out of memory", "not enough memory", "can't allocate memory")
        )
    )


def _reason(error: BaseException, heard: list[str]) -> str:
    """An error of somebody else's code in a few words."""
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs the package {printable(error.name)}, which is not installed"
    report = re.sub(r"\x1b?\[[0-9;]*m", "", heard[-1] if heard else "")
    if names := re.findall(r"^(\S.*?) +\| CONVERSION", report, re.MULTILINE):
        return f"the tensors in the files cannot be put together to {_listed(names)}"
    return f"{type(error).__name__}: {printable(text, 240)}" if text else type(error).__name__


@contextlib.contextmanager
def _quiet(heard: list[str]) -> Iterator[None]:
    """Collect what transformers and the Hub's client log, and show no progress bars or warnings."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with contextlib.suppress(Exception):
                heard.append(record.getMessage())

    loggers = [
        logging.getLogger(name) for name in ("transformers", "huggingface_hub", "py.warnings")
    ]
    kept = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    controls = importlib.import_module("transformers.utils.logging")
    bars = controls.is_progress_bar_enabled()
    try:
        for logger in loggers:
            logger.handlers, logger.propagate = [Listener()], False
            logger.setLevel(logging.WARNING)
        controls.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, handlers, propagate, level in kept:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        if bars:
            controls.enable_progress_bar()


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


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names with layer 10 after layer 2."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
