"""Checks that a folder contains all weights of a model, and no others. transformers fills missing
weights with random numbers and ignores weights that it does not know.

Here a weight that is missing, has another shape, or is left over in a part that the model has, is
an error that names the keys. A weight stored in a dtype that is not a plain float is an error too.
Weights that are not finite or all zero are noted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from simsmoe_cli.errors import DataError, printable
from simsmoe_cli.huggingface.foreign_code import listed_keys
from simsmoe_cli.huggingface.stored_tensors import PLAIN_FLOATS, StoredTensor

MOST_AHEAD = 64  # layers that predict further tokens; models have one to three
COMPUTED = re.compile(r"rotary_emb\.|masked_bias|position_ids")  # buffers that old folders hold


@dataclass
class LoadingInfo:
    """How a model and its files disagree, as transformers reports it.

    Attributes:
        missing: names the model has and the files do not; tied weights and what transformers knows
            to be absent left out.
        unexpected: names the files have and the model does not.
        mismatched: names, and the shapes in the files and in the model.
        broken: parameters that the files' tensors cannot be combined into.
    """

    missing: set[str] = field(default_factory=set)
    unexpected: set[str] = field(default_factory=set)
    mismatched: set[tuple[str, Any, Any]] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)


def require_complete(model: nn.Module, info: LoadingInfo, where: str) -> None:
    """Refuse a model whose weights are not all its own.

    Tensors of parts that the model does not have at all (a vision tower, layers that predict
    further tokens) may be left over.

    Args:
        model: as its configuration builds it.
        info: the differences between model and files.
        where: the folder.

    Raises:
        UserError: names the first ten of each kind.
    """
    if info.broken:
        raise DataError(
            f"the tensors in the files cannot be combined into {listed_keys(info.broken)}",
            where=where,
            hint="Download the folder again, or give the config.json of these weights.",
        )
    modules = {name for name, _ in model.named_modules()}
    base = str(getattr(model, "base_model_prefix", ""))
    ahead = _layers_ahead(model)
    unknown = [
        name
        for name in info.unexpected
        if _of_known_part(name, modules, base) and not any(layer in name for layer in ahead)
    ]
    shapes = [
        f"{name} ({_shape(found)} in the file, {_shape(wanted)} in config.json)"
        for name, found, wanted in info.mismatched
    ]
    faults = [
        f"{label}: {listed_keys(names)}"
        for label, names in (
            ("missing", list(info.missing)),
            ("of another shape", shapes),
            ("unknown to the model", unknown),
        )
        if names
    ]
    if faults:
        raise DataError(
            f"weights and config.json do not agree; {'; '.join(faults)}",
            where=where,
            hint="Download the folder again: a report without the model's own weights would mean "
            "nothing.",
        )


def require_plain_floats(
    model: nn.Module,
    stored: Mapping[str, StoredTensor],
    parameter_of: Mapping[str, str],
    where: str,
) -> None:
    """Refuse weights stored in 8 bits or as integers, which mean nothing without their scales.

    Args:
        model: as its configuration builds it; may be without memory.
        stored: the tensors of the files by name.
        parameter_of: the parameter that each stored tensor goes into.
        where: the folder.

    Raises:
        UserError: names the dtypes and the first ten tensors.
    """
    floating = {name for name, weight in model.named_parameters() if weight.is_floating_point()}
    coded = [
        name
        for name, parameter in parameter_of.items()
        if parameter in floating and stored[name].dtype not in PLAIN_FLOATS
    ]
    if coded:
        dtypes = Counter(stored[name].dtype for name in coded)
        kinds = ", ".join(printable(dtype) for dtype, _ in dtypes.most_common(3))
        raise DataError(
            f"{len(coded):,} weights are stored as {kinds}, and config.json has no "
            f"quantization_config that says how to scale them: {listed_keys(coded)}",
            where=where,
            hint="Give the config.json that these weights were published with, or a folder of the "
            "same model in bf16, fp16 or fp32.",
        )


@dataclass
class UnusualWeights:
    """Names of weights that are not finite, or all zero."""

    non_finite: list[str] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)

    def look_at(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Look at parameters of any shape; those without memory are passed over."""
        for name, tensor in named:
            if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
                continue
            ends = torch.stack(torch.aminmax(tensor.detach()))  # NaN where there is one
            if not ends.isfinite().all():
                self.non_finite.append(name)
            elif tensor.ndim >= 2 and not re.search(r"bias|pos", name) and not ends.any():
                self.zero.append(name)

    @property
    def notes(self) -> list[str]:
        """The notes for the report about these weights."""
        found = []
        if self.non_finite:
            found.append(
                f"weights that are not finite (NaN or infinite): {listed_keys(self.non_finite)}"
            )
        if self.zero:
            found.append(f"weights that are all zero: {listed_keys(self.zero)}")
        return found


def _of_known_part(name: str, modules: set[str], base: str) -> bool:
    """Whether a weight lies in a part that the model has: below its root and its backbone."""
    parent = name
    while "." in parent:
        parent = parent.rpartition(".")[0]
        if parent in modules:
            return parent not in ("", base) and not COMPUTED.search(name)
    return False


def _layers_ahead(model: nn.Module) -> list[str]:
    """Names of the layers after the last, with which a model predicts several tokens ahead."""
    config = model.config.get_text_config(decoder=True)  # type: ignore[operator, union-attr]
    last, ahead = (
        value if isinstance(value := getattr(config, name, None), int) else 0
        for name in ("num_hidden_layers", "num_nextn_predict_layers")
    )
    return [f"layers.{last + number}." for number in range(min(ahead, MOST_AHEAD))]


def _shape(sizes: Any) -> str:
    return "x".join(str(size) for size in sizes) or "one number"
