"""Converts the tensors of files to the parameters of a model, as transformers does.

On loading, transformers renames tensors, stacks experts and splits joined tensors. This module uses
functions of transformers that may change between versions; `WeightConversion.known` says whether
they are the expected ones.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch

from simsmoe_cli.huggingface.check_weights import LoadingInfo

KNOWN_ARGUMENTS = {"model", "state_dict", "load_config", "disk_offload_index"}


class WeightConversion:
    """Loads tensors of files into a model as transformers does.

    Args:
        model: of transformers; its parameters may be without memory.
        dtype: the dtype it will compute in.
    """

    def __init__(self, model: Any, dtype: torch.dtype):
        _, _, utils = _modules()
        self.model = model
        self.settings = utils.LoadStateDictConfig(
            dtype=dtype, dtype_plan=model._get_dtype_plan(dtype)
        )
        self.mapping = _mapping(model)
        self.absent: set[str] = set()

    @staticmethod
    def known() -> bool:
        """Whether transformers has the functions used here in the expected form."""
        try:
            core, mapping, utils = _modules()
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

    def kept_in_fp32(self) -> Callable[[str], bool]:
        """A function that says of a parameter's name whether it always stays in fp32."""
        core, _, _ = _modules()
        if not self.settings.dtype_plan:
            return lambda name: False
        pattern = core.build_glob_alternation(list(self.settings.dtype_plan))[0]
        return lambda name: pattern.search(name) is not None

    def load(self, tensors: dict[str, Any], device: torch.device) -> LoadingInfo:
        """Put tensors of the files into the model, on a device.

        On the meta device nothing is loaded, but differences and tied parameters are found.
        """
        core = _modules()[0]
        settings = dataclasses.replace(
            self.settings, weight_mapping=copy.deepcopy(self.mapping), device_map={"": device}
        )
        with torch.no_grad():
            info, _ = core.convert_and_load_state_dict_in_model(self.model, tensors, settings)
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
        """Share weights that the files store once and the model uses twice."""
        self.model.tie_weights(missing_keys=set(self.absent), recompute_mapping=False)


def parameter_names(model: Any, names: Iterable[str]) -> dict[str, str]:
    """The (first) parameter that each stored tensor goes into.

    If the functions of transformers are not the expected ones, only tensors with the name of a
    parameter are included.
    """
    known = model.state_dict()
    if not WeightConversion.known():
        return {name: name for name in names if name in known}
    core, mapping = _modules()[0], _mapping(model)
    renamings = [one for one in mapping if isinstance(one, core.WeightRenaming)]
    converters = [one for one in mapping if isinstance(one, core.WeightConverter)]
    found = {}
    for name in names:
        target = core.rename_source_key(
            name, renamings, converters, model.base_model_prefix, known
        )[0]
        if target not in known and name in known:
            target = core.rename_source_key(name, [], [], model.base_model_prefix, known)[0]
        if target in known:
            found[name] = target
    return found


def _mapping(model: Any) -> list[Any]:
    found: list[Any] = _modules()[1].get_model_conversion_mapping(model)
    return found


def _modules() -> tuple[Any, Any, Any]:
    return (
        importlib.import_module("transformers.core_model_loading"),
        importlib.import_module("transformers.conversion_mapping"),
        importlib.import_module("transformers.modeling_utils"),
    )
