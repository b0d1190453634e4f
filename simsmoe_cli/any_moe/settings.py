"""Checks the settings that a user gives to `attach`, before the model is changed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from torch import nn

from simsmoe_cli.any_moe.find_layers import ExpertLayer, ListedLayer
from simsmoe_cli.errors import DataError, UserError
from simsmoe_cli.recipe.schema_errors import schema_problems
from simsmoe_cli.recipe.section import Problem
from simsmoe_cli.recipe.similarity import SimilaritySettings

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


def similarity_settings(given: Similarity, total_steps: int | None) -> SimilaritySettings | None:
    """Settings of similarity learning; None where it is off.

    Args:
        given: the name of a preset, or fields of a recipe's section `similarity`.
        total_steps: of the training, if known.

    Raises:
        UserError: a field is unknown or wrong, fields contradict each other, a head would have to
            be trained, or a schedule is given and `total_steps` is not.
    """
    if isinstance(given, str):
        given = {"preset": given}
    if isinstance(given, dict):
        try:
            given = _Given.model_validate({"similarity": given}).similarity
        except ValidationError as error:
            raise _refused(schema_problems(error)[0]) from None
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
    if scheduled and total_steps is None:
        raise UserError(
            "a schedule needs the length of the training",
            where=f"similarity.{scheduled[0]}",
            hint="Give attach total_steps, or set a number.",
        )
    return given


def require_rows_alone(layers: Sequence[ExpertLayer], where: str) -> None:
    """Refuse experts that cannot be called with rows alone.

    Raises:
        UserError: one needs further arguments.
    """
    for layer in layers:
        if not isinstance(layer, ListedLayer):
            continue
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
