"""The weights of a Hugging Face model, read from its files one decoder layer at a time.

The model is built without memory for its parameters. The tensors of the files first go through the
conversions of transformers as shapes without numbers (meta tensors), so that missing, extra or
misshapen weights are known before any weight is read. Then the embeddings, norms and output layer
are read, and each decoder layer when it is needed. If the version of transformers works
differently, or the model is not one stack of layers, `LayerWeights.of` returns None and the model
must be loaded completely.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from simsmoe_cli.any_moe.find_layers import find_expert_layers
from simsmoe_cli.huggingface.stored_tensors import StoredTensor
from simsmoe_cli.huggingface.weight_conversion import (
    WeightConversion,
    parameter_names,
)

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


class LayerWeights:
    """A model whose decoder layers are read when they are needed.

    Attributes:
        model: its decoder layers have no memory, except for the one in `at_hand`; the other modules
            have none until `load_rest`.
        stack: the name of the list of its decoder layers.
        layers: names of its decoder layers, in order.
        info: the differences between model and files.
        at_hand: the decoder layer that is in memory, if one is.
    """

    def __init__(
        self,
        model: Any,
        stack: str,
        stored: Mapping[str, StoredTensor],
        dtype: torch.dtype,
        device: torch.device,
    ):
        self.model = model
        self.stack = stack
        self.layers = [f"{stack}.{number}" for number in range(len(model.get_submodule(stack)))]
        self.stored = stored
        self.stored_as = stored_dtype(stored.values())
        self.dtype = dtype
        self.device = device
        self.at_hand: str | None = None
        self._conversion = WeightConversion(model, dtype)
        # While they are read, weights stay as they are stored: stacking needs less memory then.
        kept = self._conversion.kept_in_fp32()
        for name, parameter in model.named_parameters():
            if parameter.dtype == dtype and not kept(name):
                parameter.data = parameter.data.to(self.stored_as)
        blank = {name: _shape_only(tensor) for name, tensor in stored.items()}
        self.info = self._conversion.load(blank, torch.device("meta"))
        parameter_of = parameter_names(model, stored)
        self._layer_of_tensor = {name: self._layer_of(to) for name, to in parameter_of.items()}
        tensors = Counter(parameter_of.values())
        self._stored_alone = {parameter for parameter, count in tensors.items() if count == 1}
        self._blank: dict[str, dict[str, nn.Parameter]] = {
            layer: dict(model.get_submodule(layer).named_parameters()) for layer in self.layers
        }

    @classmethod
    def of(
        cls,
        kind: Any,
        config: Any,
        stored: Mapping[str, StoredTensor],
        dtype: torch.dtype,
        device: torch.device,
    ) -> LayerWeights | None:
        """A model's weights, if it can be read layer by layer.

        Args:
            kind: its class in transformers.
            config: its configuration.
            stored: the tensors of its files.
            dtype: the dtype it will compute in.
            device: the device it will compute on.
        """
        if not WeightConversion.known():
            return None
        model = skeleton(kind, config, dtype)
        stack = _stack(model)
        return None if stack is None else cls(model, stack, stored, dtype, device)

    def load_rest(self) -> None:
        """Read all weights outside the decoder layers."""
        self._read(None)
        self._conversion.tie()
        for name, buffer in list(self.model.named_buffers()):
            if buffer.device.type == "meta":
                continue
            parent, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(parent), leaf, buffer.to(self.device))
        for name, parameter in self.model.named_parameters():
            if self._layer_of(name) is None and parameter.device.type != "meta":
                parameter.data = self._converted(name, parameter.data)

    def load(self, layer: str) -> None:
        """Read a decoder layer, after freeing the one in memory."""
        if self.at_hand == layer:
            return
        self.release()
        self.at_hand = layer
        self._read(layer)
        for name, parameter in self.model.get_submodule(layer).named_parameters():
            parameter.data = self._converted(f"{layer}.{name}", parameter.data)

    def release(self) -> None:
        """Free the decoder layer that was read."""
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

    def _converted(self, name: str, weight: Tensor) -> Tensor:
        """A parameter in the dtype and on the device of the computation.

        On a CPU a parameter that was read as one tensor is a view of the mapped file, and would
        keep all pages that were read in memory. So it is copied.
        """
        mapped = self.device.type == "cpu" and name in self._stored_alone
        dtype = self.dtype if weight.dtype == self.stored_as else weight.dtype
        return weight.to(dtype, copy=mapped)

    def _read(self, layer: str | None) -> None:
        names = [name for name, owner in self._layer_of_tensor.items() if owner == layer]
        with open_tensors(self.stored, names) as tensors:
            self._conversion.load(tensors, self.device)


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


def stored_dtype(stored: Iterable[StoredTensor]) -> torch.dtype:
    """The plain dtype that most of the numbers of some tensors are stored in."""
    numbers: dict[torch.dtype, int] = {}
    for tensor in stored:
        if (dtype := DTYPES.get(tensor.dtype)) is not None:
            numbers[dtype] = numbers.get(dtype, 0) + tensor.count
    return max(numbers, key=lambda dtype: numbers[dtype], default=torch.float32)


@contextlib.contextmanager
def open_tensors(stored: Mapping[str, StoredTensor], names: list[str]) -> Iterator[dict[str, Any]]:
    """Tensors that are read when they are indexed, by name.

    The files are mapped into memory only while this is open, so the pages that were read do not
    stay in memory.
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


def _shape_only(tensor: StoredTensor) -> Tensor:
    """A tensor of the same shape and dtype without memory; fp32 for what is not a plain float."""
    dtype = DTYPES.get(tensor.dtype, torch.float32)
    return torch.empty(tensor.shape, dtype=dtype, device="meta")


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
