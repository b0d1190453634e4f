"""Checks the settings that a user gives to `attach`, before the model is changed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from torch import nn

from simsmoe_cli.any_moe.find_layers import ExpertLayer, ListedLayer
from simsmoe_cli.errors import DataError, UserError, printable
from simsmoe_cli.recipe.schema_errors import schema_problems
from simsmoe_cli.recipe.section import Problem
from simsmoe_cli.recipe.similarity import PRESETS, SimilaritySettings

Similarity = str | dict[str, Any] | SimilaritySettings
# Of a configuration of transformers: how many experts a token is sent to.
TOP_K_NAMES = (
    "num_experts_per_tok",
    "moe_top_k",
    "num_experts_per_token",
    "moe_k",
    "moe_topk",
    "top_k_experts",
)


class _Given(BaseModel):
    similarity: SimilaritySettings


def require_arguments(model: Any, layers: Any, **counts: Any) -> None:
    """Refuse arguments of another kind.

    Args:
        model: a module.
        layers: a function, or None.
        counts: each a whole number of 1 or more, or None.

    Raises:
        UserError: one is something else.
    """
    if not isinstance(model, nn.Module):
        raise UserError(
            f"the model must be a torch.nn.Module, and is a {_kind(model)}", where="attach"
        )
    if layers is not None and not callable(layers):
        raise UserError(
            f"it must be a function that takes the model, and is a {_kind(layers)}", where="layers"
        )
    for name, value in counts.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= 1):
            raise UserError(
                f"{name} must be a whole number of 1 or more, and is {printable(repr(value))}",
                where="attach",
            )


def _kind(value: Any) -> str:
    return type(value).__name__


def similarity_settings(given: Similarity, total_steps: int | None) -> SimilaritySettings | None:
    """Settings of similarity learning; None where it is off.

    Args:
        given: the name of a preset, or fields of a recipe's section `similarity`.
        total_steps: of the training, if known; otherwise a preset's own schedule is replaced by its
            last value.

    Raises:
        UserError: a field is unknown or wrong, fields contradict each other, a head would have to
            be trained, or a schedule of the user's is given and `total_steps` is not.
    """
    if isinstance(given, str):
        given = {"preset": given}
    if isinstance(given, dict):
        try:
            given = _Given.model_validate({"similarity": given}).similarity
        except ValidationError as error:
            raise _refused(schema_problems(error)[0]) from None
    if not isinstance(given, SimilaritySettings):
        raise UserError(
            f"expected the name of a preset or a dict of settings, got a {_kind(given)}",
            where="similarity",
            hint='Leave it out, or give "none" to measure only.',
        )
    # Contradictions with a model are not known before its layers are seen.
    if problems := list(given.problems("g", 1 << 20, 2)):
        raise _refused(problems)
    if not given.enabled:
        return None
    if given.head != "none" and not given.head_frozen:
        raise UserError(
            f"the head '{given.head}' would have to be trained, and no optimizer here knows it",
            where="similarity.head",
            hint="Use the preset calibrated, or set head_frozen to True.",
        )
    scheduled = [
        name for name in type(given).model_fields if isinstance(getattr(given, name), list)
    ]
    if total_steps is not None:
        return given
    preset = PRESETS[given.preset]
    if own := [name for name in scheduled if getattr(given, name) != preset.get(name)]:
        raise UserError(
            "a schedule needs the length of the training",
            where=f"similarity.{own[0]}",
            hint="Give attach total_steps, or set a number.",
        )
    return given.model_copy(update={name: getattr(given, name)[-1][1] for name in scheduled})


def require_rows_alone(layers: Sequence[ExpertLayer], where: str) -> None:
    """Refuse experts that cannot be called with rows alone, and a wrong number of experts.

    Raises:
        UserError: one needs further arguments, or there are more or fewer experts.
    """
    for layer in layers:
        if not isinstance(layer, ListedLayer):
            continue
        if layer.number != len(layer.modules):
            raise UserError(
                f"layer {layer.name} has {len(layer.modules)} experts, and its number says "
                f"{layer.number}",
                where=where,
            )
        for number, expert in enumerate(layer.modules):
            needed = [
                parameter.name
                for parameter in inspect.signature(expert.forward).parameters.values()
                if parameter.default is parameter.empty
                and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            ]
            if len(needed) > 1:
                raise DataError(
                    f"expert {number} of layer {layer.name} needs more than rows: it takes "
                    + ", ".join(needed),
                    where=where,
                    hint="Give attach a finder (layers=) whose layers run such experts.",
                )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside those that hold it as `module`, such as DistributedDataParallel."""
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    return model


def experts_per_token(model: nn.Module) -> int | None:
    """K, from a configuration of transformers; None if it is not there."""
    config = getattr(model, "config", None)
    for part in (config, getattr(config, "text_config", None)):
        for name in TOP_K_NAMES:
            value = getattr(part, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _refused(problems: Sequence[Problem]) -> UserError:
    found = [UserError(p.what, where=p.paths[0], hint=p.hint) for p in problems]
    if len(found) == 1:
        return found[0]
    return UserError(f"{len(found)} problems with the similarity settings", problems=found)
