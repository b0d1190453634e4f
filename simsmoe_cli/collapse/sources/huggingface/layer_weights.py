"""The weights of a Hugging Face model, read from its files one decoder layer at a time.

The model is built without memory for its parameters. All tensors of the files are first put through
what transformers does to them on loading (renaming, stacking of experts, splitting) as shapes
without numbers: so what is missing, left over or of another shape is known before anything is read.
Then the embeddings, norms and output layer are read, and each decoder layer when it is asked for.

This uses functions of transformers that may change between its versions. Where they are not as they
are known here, or the model is not one stack of layers, `LayerWeights.of` gives None and the model
is to be loaded as a whole.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from simsmoe_cli.attach.find_layers import find_expert_layers

KNOWN_ARGUMENTS = {"model", "state_dict", "load_config", "disk_offload_index"}
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass
class StoredTensor:
    """Where a tensor lies, and what its header says.

    Attributes:
        file: that holds it.
        shape: of it.
        dtype: of it; None where it is no plain float.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype | None

    def shape_only(self) -> Tensor:
        """A tensor of that shape without memory."""
        return torch.empty(self.shape, dtype=self.dtype or torch.float32, device="meta")


@dataclass
class LoadingInfo:
    """What does not fit between a model and its files, as transformers says it.

    Attributes:
        missing, unexpected: names of the model's parameters, and of the files' tensors.
        mismatched: names, and shapes in the files and in the model.
        broken: names of parameters that the files' tensors cannot be put together to.
    """

    missing: set[str] = field(default_factory=set)
    unexpected: set[str] = field(default_factory=set)
    mismatched: set[tuple[str, Any, Any]] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)


class LayerWeights:
    """A model whose decoder layers are read when they are needed.

    Attributes:
        model: all its decoder layers without memory; the rest as well until `load_rest`.
        stack: the name of the list of its decoder layers.
        layers: names of its decoder layers, in order.
        info: what does not fit.
        at_hand: the decoder layer that is in memory, if one is.
    """

    def __init__(
        self,
        model: Any,
        stack: str,
        stored: dict[str, StoredTensor],
        stored_as: torch.dtype,
        dtype: torch.dtype,
        device: torch.device,
    ):
        self.model = model
        self.stack = stack
        self.layers = [f"{stack}.{number}" for number in range(len(model.get_submodule(stack)))]
        self.stored = stored
        self.stored_as = stored_as
        self.dtype = dtype
        self.device = device
        self.at_hand: str | None = None
        self._loading = _Loading.of(model, dtype)
        # While they are read, weights stay as they are stored: stacking needs less memory then.
        kept = self._loading.kept_in_fp32()
        for name, parameter in model.named_parameters():
            if parameter.dtype == dtype and not kept(name):
                parameter.data = parameter.data.to(stored_as)
        blank = {name: tensor.shape_only() for name, tensor in stored.items()}
        self.info = self._loading.load(blank, torch.device("meta"))
        self._place = {name: self._layer_of(target) for name, target in self._loading.targets()}
        self._blank: dict[str, dict[str, nn.Parameter]] = {
            layer: dict(model.get_submodule(layer).named_parameters()) for layer in self.layers
        }

    @classmethod
    def of(
        cls,
        kind: Any,
        config: Any,
        files: tuple[Path, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> LayerWeights | None:
        """A model's weights, if it can be read layer by layer.

        Args:
            kind: its class, of transformers.
            config: its configuration.
            files: safetensors.
            dtype: what it is to compute in.
            device: where it is to compute.
        """
        if not _Loading.known():
            return None
        model = skeleton(kind, config, dtype)
        stack = _stack(model)
        if stack is None:
            return None
        stored = headers(files)
        return cls(model, stack, stored, stored_dtype(stored), dtype, device)

    def load_rest(self) -> None:
        """Read all that is in no decoder layer."""
        self._read(None)
        self._loading.tie()
        for name, buffer in list(self.model.named_buffers()):
            if buffer.device.type == "meta":
                continue
            parent, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(parent), leaf, buffer.to(self.device))
        for name, parameter in self.model.named_parameters():
            if self._layer_of(name) is None and parameter.device.type != "meta":
                parameter.data = self._converted(parameter.data)

    def load(self, layer: str) -> None:
        """Have a decoder layer in memory, and no other."""
        if self.at_hand == layer:
            return
        self.release()
        self.at_hand = layer
        self._read(layer)
        for parameter in self.model.get_submodule(layer).parameters():
            parameter.data = self._converted(parameter.data)

    def release(self) -> None:
        """Give back the memory of the decoder layer at hand."""
        if self.at_hand is None:
            return
        module = self.model.get_submodule(self.at_hand)
        for name, blank in self._blank[self.at_hand].items():
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, blank)
        self.at_hand = None

    def bytes_of(self, layer: str | None) -> int:
        """Bytes of a decoder layer's weights (None: of all others) as they are computed with."""
        numbers = sum(
            parameter.numel()
            for name, parameter in self.model.named_parameters()
            if self._layer_of(name) == layer
        )
        return int(numbers * self.dtype.itemsize)

    def _layer_of(self, name: str) -> str | None:
        """The decoder layer that a parameter is in."""
        if not name.startswith(f"{self.stack}."):
            return None
        number = name.removeprefix(f"{self.stack}.").partition(".")[0]
        return f"{self.stack}.{number}"

    def _converted(self, weight: Tensor) -> Tensor:
        return weight.to(self.dtype) if weight.dtype == self.stored_as else weight

    def _read(self, layer: str | None) -> None:
        names = [name for name, place in self._place.items() if place == layer]
        with open_tensors(self.stored, names) as tensors:
            self._loading.load(tensors, self.device)


def skeleton(kind: Any, config: Any, dtype: torch.dtype) -> Any:
    """A model of transformers without memory for its parameters; its buffers are real."""

    def without_memory(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    hook = register_module_parameter_registration_hook(without_memory)  # type: ignore[arg-type]
    try:
        model = kind._from_config(copy.deepcopy(config), dtype=dtype)
    finally:
        hook.remove()
    return model.eval()


def headers(files: tuple[Path, ...]) -> dict[str, StoredTensor]:
    """The tensors of safetensors files by name; nothing but headers is read."""
    found = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                part = opened.get_slice(name)
                found[name] = StoredTensor(
                    file, tuple(part.get_shape()), DTYPES.get(part.get_dtype())
                )
    return found


def stored_dtype(stored: dict[str, StoredTensor]) -> torch.dtype:
    """What most of the numbers of some files are stored in."""
    numbers: dict[torch.dtype, int] = {}
    for tensor in stored.values():
        if tensor.dtype is not None:
            size = int(torch.Size(tensor.shape).numel())
            numbers[tensor.dtype] = numbers.get(tensor.dtype, 0) + size
    return max(numbers, key=lambda dtype: numbers[dtype], default=torch.float32)


@contextlib.contextmanager
def open_tensors(stored: dict[str, StoredTensor], names: list[str]) -> Iterator[dict[str, Any]]:
    """Tensors that are read when they are indexed, by name.

    The files are mapped into memory only for as long as this is open, so what was read of them does
    not stay.
    """
    with contextlib.ExitStack() as files:
        opened: dict[Path, Any] = {}
        found = {}
        for name in names:
            file = stored[name].file
            if file not in opened:
                opened[file] = files.enter_context(safe_open(file, framework="pt"))
            found[name] = opened[file].get_slice(name)
        yield found


def _stack(model: nn.Module) -> str | None:
    """The name of the one list of modules that holds all layers with experts, if there is one."""
    found = set()
    for layer in find_expert_layers(model):
        parts = layer.name.split(".")
        lists = (
            name
            for name in (".".join(parts[:end]) for end in range(1, len(parts)))
            if isinstance(model.get_submodule(name), nn.ModuleList)
        )
        found.add(next(lists, None))
    if len(found) != 1:
        return None
    (name,) = found
    if name is None:
        return None
    shared: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    if any(key.startswith(f"{name}.") for pair in shared.items() for key in pair):
        return None
    return name


class _Loading:
    """What transformers does between the tensors of files and the parameters of a model."""

    def __init__(self, model: Any, config: Any, mapping: list[Any], dtype: torch.dtype):
        self.model = model
        self.config = config
        self.mapping = mapping
        self.dtype = dtype
        self.names: list[str] = []
        self.absent: set[str] = set()

    @staticmethod
    def _modules() -> tuple[Any, Any, Any]:
        return (
            importlib.import_module("transformers.core_model_loading"),
            importlib.import_module("transformers.conversion_mapping"),
            importlib.import_module("transformers.modeling_utils"),
        )

    @classmethod
    def known(cls) -> bool:
        """Whether transformers has the functions used here."""
        try:
            core, mapping, utils = cls._modules()
            arguments = inspect.signature(core.convert_and_load_state_dict_in_model).parameters
            wanted = (
                core.rename_source_key,
                core.WeightRenaming,
                core.WeightConverter,
                mapping.get_model_conversion_mapping,
                utils.PreTrainedModel._get_dtype_plan,
                utils.PreTrainedModel._adjust_missing_and_unexpected_keys,
            )
            config = utils.LoadStateDictConfig()
        except (ImportError, AttributeError, TypeError):
            return False
        fields = {"dtype", "dtype_plan", "weight_mapping", "device_map"}
        return (
            set(arguments) == KNOWN_ARGUMENTS
            and all(map(callable, wanted))
            and all(hasattr(config, name) for name in fields)
        )

    @classmethod
    def of(cls, model: Any, dtype: torch.dtype) -> _Loading:
        _, mapping, utils = cls._modules()
        config = utils.LoadStateDictConfig(dtype=dtype, dtype_plan=model._get_dtype_plan(dtype))
        return cls(model, config, mapping.get_model_conversion_mapping(model), dtype)

    def kept_in_fp32(self) -> Any:
        """Whether a parameter is not to be computed in the precision of the others."""
        core, _, _ = self._modules()
        if not self.config.dtype_plan:
            return lambda name: False
        pattern = core.build_glob_alternation(list(self.config.dtype_plan))[0]
        return lambda name: pattern.search(name) is not None

    def load(self, tensors: dict[str, Any], device: torch.device) -> LoadingInfo:
        """Put tensors of the files into the model, on a device."""
        core = self._modules()[0]
        self.names = list(tensors)
        config = dataclasses.replace(
            self.config, weight_mapping=copy.deepcopy(self.mapping), device_map={"": device}
        )
        with torch.no_grad():
            info, _ = core.convert_and_load_state_dict_in_model(self.model, tensors, config)
        if device.type == "meta":
            self.absent = set(info.missing_keys)
            self.model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
            self.model._adjust_missing_and_unexpected_keys(info)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        return LoadingInfo(
            set(info.missing_keys),
            set(info.unexpected_keys),
            set(info.mismatched_keys),
            set(info.conversion_errors),
        )

    def tie(self) -> None:
        """Give weights that the files hold once, and the model twice, to both."""
        self.model.tie_weights(missing_keys=set(self.absent), recompute_mapping=False)

    def targets(self) -> Iterator[tuple[str, str]]:
        """Of each tensor loaded last, its name and that of the (first) parameter it goes into."""
        core, _, _ = self._modules()
        renamings = [one for one in self.mapping if isinstance(one, core.WeightRenaming)]
        converters = [one for one in self.mapping if isinstance(one, core.WeightConverter)]
        known, base = self.model.state_dict(), self.model.base_model_prefix
        for name in self.names:
            target = core.rename_source_key(name, renamings, converters, base, known)[0]
            if target not in known and name in known:
                target = core.rename_source_key(name, [], [], base, known)[0]
            if target in known:
                yield name, target
