"""The documentation of a recipe's fields, as `simsmoe show RECIPE --fields` prints it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from simsmoe_cli.recipe.schedule import Schedule
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.recipe.section import Section


@dataclass(frozen=True)
class FieldDoc:
    """One field.

    Attributes:
        path: dotted, as `--set` takes it.
        type: in plain words.
        default: its value where it is left out; for similarity learning, with preset none.
        help: its description from the schema.
    """

    path: str
    type: str
    default: Any
    help: str


@functools.cache
def sections() -> dict[str, type[Section]]:
    """The sections of a recipe by name, and the recipe itself under ""."""
    found: dict[str, type[Section]] = {"": Recipe}
    for name, info in Recipe.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            found[name] = info.annotation
    return found


def fields(recipe: Recipe | None = None) -> Iterator[FieldDoc]:
    """Every field that is not a section, in the order of the schema.

    Args:
        recipe: its unused sections are left out; None: all sections are included.
    """
    idle = recipe.idle_sections if recipe else set()
    for section, schema in sections().items():
        if section in idle:
            continue
        for name, info in schema.model_fields.items():
            if info.description is not None:
                path = f"{section}.{name}" if section else name
                words = type_in_words(info.annotation)
                yield FieldDoc(path, words, info.get_default(), info.description)


def type_in_words(annotation: Any) -> str:
    """A field's type for people: "whole number", "number or schedule", "one of pre, post"."""
    if annotation == Schedule:
        return "schedule"
    if get_origin(annotation) is Annotated:
        return type_in_words(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        choices = [str(choice) for choice in get_args(annotation)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else f"'{choices[0]}'"
    if get_origin(annotation) is dict:
        return "mapping"
    if get_origin(annotation) is list:
        return f"list of {type_in_words(get_args(annotation)[0])}s"
    if get_args(annotation):
        return alternatives([type_in_words(part) for part in get_args(annotation)])
    return {int: "whole number", float: "number", bool: "true or false"}.get(annotation, "text")


def default_of(path: str) -> Any:
    """The default of the field with a dotted path."""
    return next(field.default for field in fields() if field.path == path)


def alternatives(choices: list[str]) -> str:
    """Choices as a phrase: "a", "a or b", "a, b or c"."""
    *first, last = choices
    return f"{', '.join(first)} or {last}" if first else last
