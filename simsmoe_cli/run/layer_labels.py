"""The labels of layers with experts: the numbers that the model itself gives them.

A model of simsmoe counts its sub-layers from 0, so in the pattern "sgsg" the layers with experts
are 1 and 3. In a Hugging Face model the label is the number in the module's name: if the first
layers are dense, `model.layers.1.mlp` may be the first layer with experts and is still layer 1.
These numbers are needed, for example, to prune a model by a report. Files and events also hold a
layer's *index* among the layers with experts, from 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from simsmoe_cli import errors
from simsmoe_cli.errors import UserError, printable

_MOST_SUB_LAYERS = 1 << 20
_SHOWN = 24  # numbers of layers that a message lists


def layer_labels(names: Sequence[str]) -> list[str]:
    """The label of each layer, all of them different.

    A label is the first number of the module's name if that tells the layers apart. If it does
    not (an encoder and a decoder, two expert layers in one block), a label is as much of the name
    as is needed.

    Args:
        names: of the modules, as "model.layers.3.mlp", in the order of the model.
    """
    parsed = [_Name.of(name) for name in names]
    numbers = [name.number for name in parsed]
    told_apart = len(set(numbers)) == len(numbers) and None not in numbers
    if told_apart and len({(name.before, name.later) for name in parsed}) == 1:
        return [str(number) for number in numbers]
    for labels in ([name.to_last_number for name in parsed], list(names)):
        short = _without_common_start(labels)
        if len(set(short)) == len(short) and all(short):
            return short
    return [str(index) for index in range(len(names))]


def pattern_labels(pattern: str, repeats: int) -> list[str]:
    """The labels of the layers with experts in a model of simsmoe: their indices among all
    sub-layers.

    Args:
        pattern: of sub-layers, as "sgsf"; g has experts.
        repeats: how often the pattern is repeated. At most a million sub-layers are read.
    """
    most = max(0, min(repeats, _MOST_SUB_LAYERS // max(1, len(pattern))))
    return [str(index) for index, kind in enumerate(pattern * most) if kind == "g"]


def recipe_labels(recipe: object) -> list[str]:
    """The labels of the layers with experts of a recipe in JSON; empty if they cannot be read from
    it."""
    if not isinstance(recipe, dict):
        return []
    huggingface, model = recipe.get("huggingface"), recipe.get("model")
    if isinstance(huggingface, dict):
        layers = huggingface.get("layers")
        return [printable(label) for label in layers] if isinstance(layers, list) else []
    if not isinstance(model, dict):
        return []
    pattern, repeats = model.get("pattern"), model.get("repeats")
    if not isinstance(pattern, str) or isinstance(repeats, bool) or not isinstance(repeats, int):
        return []
    return pattern_labels(pattern[:_MOST_SUB_LAYERS], repeats)


def find_layer(asked: str, labels: Sequence[str], where: str) -> int:
    """The index of a layer among those with experts.

    Args:
        asked: its label.
        labels: of all layers with experts.
        where: the option it was given with.

    Raises:
        UserError: no layer has this label; the message names the existing ones.
    """
    wanted = asked.strip()
    if re.fullmatch(r"\d{1,9}", wanted, re.ASCII):
        wanted = str(int(wanted))
    if wanted in labels:
        return labels.index(wanted)
    raise UserError(
        f"no layer with experts is called '{printable(asked)}'",
        where=where,
        hint=f"Layers with experts: {listed(labels)}.",
    )


def find_layers(asked: str, labels: Sequence[str], where: str) -> list[int]:
    """The indices of several layers, in the order of the model, each once.

    Args:
        asked: labels with commas between them, or ranges of them with both ends, as "0,7,12-15". A
            range passes over layers without experts.
        labels: of all layers with experts.
        where: the option they were given with.

    Raises:
        UserError: the list is empty, or names a layer that does not exist, or a range without
            layers; the message names the existing ones.
    """
    wanted = [part.strip() for part in asked.split(",") if part.strip()]
    if not wanted:
        raise UserError(
            "no layer given", where=where, hint=f"Layers with experts: {listed(labels)}."
        )
    indices: set[int] = set()
    for part in wanted:
        ends = re.fullmatch(r"(\d{1,9})\s*-\s*(\d{1,9})", part, re.ASCII)
        if ends is None or part in labels:
            indices.add(find_layer(part, labels, where))
            continue
        first, last = map(int, ends.groups())
        inside = {
            index
            for index, label in enumerate(labels)
            if label.isdecimal() and first <= int(label) <= last
        }
        if not inside:
            raise UserError(
                f"no layer with experts is in '{printable(part)}'",
                where=where,
                hint=f"Layers with experts: {listed(labels)}.",
            )
        indices |= inside
    return sorted(indices)


def listed(labels: Sequence[str]) -> str:
    """Labels for a message: the first two dozen, and the number of the others."""
    return errors.listed(labels, _SHOWN) or "none"


@dataclass(frozen=True)
class _Name:
    """The name of a module, taken apart at its numbers.

    Attributes:
        before: what comes before the first number.
        number: the first number; None where there is none.
        later: all numbers after it.
        to_last_number: the name as far as its last number; all of it where there is none.
    """

    before: tuple[str, ...]
    number: int | None
    later: tuple[str, ...]
    to_last_number: str

    @classmethod
    def of(cls, name: str) -> _Name:
        parts = name.split(".")
        indices = [at for at, part in enumerate(parts) if re.fullmatch(r"[0-9]{1,9}", part)]
        if not indices:
            return cls(tuple(parts), None, (), name)
        return cls(
            tuple(parts[: indices[0]]),
            int(parts[indices[0]]),
            tuple(parts[at] for at in indices[1:]),
            ".".join(parts[: indices[-1] + 1]),
        )


def _without_common_start(names: Sequence[str]) -> list[str]:
    """The names without the leading parts that all of them have."""
    split = [name.split(".") for name in names]
    most = min((len(parts) - 1 for parts in split), default=0)
    common = 0
    while common < most and len({parts[common] for parts in split}) == 1:
        common += 1
    return [".".join(parts[common:]) for parts in split]
