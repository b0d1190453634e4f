"""What a training says at its start: its data, model and steps, and how long it will take.

The time is that of its first steps. Evaluating a token counts a third of training with it, as it
is a forward pass alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simsmoe_cli.errors import counted
from simsmoe_cli.run.duration import duration

if TYPE_CHECKING:
    from simsmoe_cli.model.interface import MoEModel
    from simsmoe_cli.recipe.schema import Recipe
    from simsmoe_cli.train.objectives.base import Objective

TRAINED_AS = 3  # forward passes that take as long as training with the same tokens


def start_lines(objective: Objective[Any], done: int) -> list[str]:
    """What is trained, on what, and for how many steps.

    Args:
        objective: with its model and data.
        done: steps that a resumed run has done already.
    """
    return [
        fact("data", objective.data_in_words()),
        fact("model", _model(objective.model, objective.recipe)),
        fact("steps", _steps(objective, done)),
    ]


def fact(name: str, text: str) -> str:
    """A line of the start."""
    return f"  {name:<6} {text}"


def steps_of_evaluations(objective: Objective[Any], done: int) -> float:
    """How many steps take as long as the validations and the test that are left.

    Args:
        objective, done: as of `start_lines`.
    """
    train = objective.recipe.train
    every, left = train.validate_every, train.steps - done
    validations = left // every + bool(train.steps % every) if every and left else 0
    validation, test = objective.tokens_evaluated()
    tokens_of_step = objective.tokens_read(train.steps) / train.steps
    return (validations * validation + test) / (TRAINED_AS * tokens_of_step)


def about(seconds: float) -> str:
    """An estimated time, to one or two digits."""
    units = {10: 1, 100: 10, 600: 60, 3600: 600}  # seconds below this are rounded to that
    unit = next((unit for below, unit in units.items() if seconds < below), 3600)
    return f"about {duration(max(unit, unit * round(seconds / unit)))}"


def _model(model: MoEModel, recipe: Recipe) -> str:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    words = [f"{parameters:,} parameters"]
    if layers := [number for _, number in model.expert_layers]:
        few, many = min(layers), max(layers)
        k = model.experts_per_token
        chosen = "" if k is None else f", {k} for each token"
        counts = f"{many}" if few == many else f"{few} to {many}"
        words.append(f"{counted(len(layers), 'layer')} of {counts} experts{chosen}")
        words.append(f"router {model.router_name}, similarity {recipe.similarity.preset}")
    return "; ".join(words)


def _steps(objective: Objective[Any], done: int) -> str:
    total = objective.recipe.train.steps
    tokens = round(objective.tokens_read(total) / total)
    if done >= total:
        return f"all {total:,} are done; the test is left"
    left = f"{total - done:,} of {total:,} are left" if done else f"{total:,}"
    return f"{left}, of {tokens:,} tokens"
