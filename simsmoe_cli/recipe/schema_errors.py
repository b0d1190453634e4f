"""Words the errors of values that do not fit the schema: unknown keys, types, ranges.

Pydantic finds all errors at once, but its messages use its own names of types, so they are
rewritten here.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from simsmoe_cli.errors import MOST_LINES, closest, nearest, printable
from simsmoe_cli.recipe.fields import alternatives, fields, sections
from simsmoe_cli.recipe.schedule import Schedule
from simsmoe_cli.recipe.section import Problem

SECTION_TYPES = ("model_type", "model_attributes_type", "dict_type")
EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_unicode": "text without halves of characters",
    "list_type": "a list",
    "finite_number": "a finite number",
    **dict.fromkeys(SECTION_TYPES, "a section of fields"),
}
SCHEDULE_TYPE = str(Schedule)  # pydantic's name of this alternative
LIMITS = {
    "greater_than_equal": ("of at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("of at most", "le"),
    "less_than": ("below", "lt"),
}


def shown(value: Any) -> str:
    """A value that was given, on one short line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    return printable(repr(value))


def schema_problems(error: ValidationError) -> tuple[list[Problem], list[tuple[str, ...]]]:
    """Pydantic's errors in plain words, and the fields they are about, each as (section, name).

    The errors of one field (the alternatives of its type, the items of its list) are one problem.
    """
    by_location: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_location.setdefault(_location(detail["loc"]), []).append(detail)
    # Looking for the nearest name takes time, and only the first problems are shown.
    problems = [
        _schema_problem(location, details)
        if number < MOST_LINES
        else Problem((".".join(location),), "not valid")
        for number, (location, details) in enumerate(by_location.items())
    ]
    return problems, list(by_location)


def _location(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """Section and name of the field of an error, without pydantic's steps into its value."""
    depth = 2 if location[0] in sections() else 1
    return tuple(str(step) for step in location[:depth])


def _schema_problem(location: tuple[str, ...], details: list[ErrorDetails]) -> Problem:
    paths = (".".join(location),)
    # A type may have alternatives, each with its error. A value out of range, or an item of a
    # list, came closest to one of them: its error says what is wrong.
    nearer = [
        each
        for each in details
        if each["type"] in LIMITS or any(isinstance(step, int) for step in each["loc"])
    ]
    details = nearer[:1] or details
    detail = details[0]
    given, kind = detail["input"], detail["type"]
    if kind == "extra_forbidden":
        return Problem(paths, "unknown key", _nearest_key(location))
    if kind == "string_pattern_mismatch" and "\\P{C}" in detail["ctx"]["pattern"]:
        return Problem(paths, f"no control characters are allowed, got {shown(given)}")
    index = next((step for step in detail["loc"] if isinstance(step, int)), None)
    if index is not None:
        return Problem(paths, f"item {index + 1}: {_complaint(detail)}")
    if len(details) > 1:
        expected = alternatives([_expected(each) for each in details])
        return Problem(paths, f"expected {expected}, got {shown(given)}")
    hint = ""
    if kind == "int_type" and isinstance(given, float) and given.is_integer():
        hint = f"Write {int(given)}."
    elif kind == "string_type" and isinstance(given, (int, float)):
        hint = f"Put it in quotes: '{printable(given)}'."
    elif kind == "literal_error":
        close = closest(given, _choices(detail)) if isinstance(given, str) else ""
        hint = f"Did you mean '{close}'?" if close else ""
    elif kind == "string_pattern_mismatch":
        about = _about(paths[0])
        hint = f"{about[0].upper()}{about[1:]}."
    elif kind in LIMITS:
        hint = f"Meaning: {_about(paths[0])}."
    return Problem(paths, _complaint(detail), hint)


def _about(path: str) -> str:
    """The description of a field."""
    return next(field.help for field in fields() if field.path == path)


def _complaint(detail: ErrorDetails) -> str:
    given = detail["input"]
    if detail["type"] == "too_long":
        return f"expected {_expected(detail)}, got {len(given):,}"
    return f"expected {_expected(detail)}, got {shown(given)}"


def _expected(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "literal_error":
        choices = _choices(detail)
        return f"one of {', '.join(choices)}" if len(choices) > 1 else f"'{choices[0]}'"
    if kind == "list_type" and detail["loc"][-1] == SCHEDULE_TYPE:
        return "a schedule"
    if kind in LIMITS:
        words, bound = LIMITS[kind]
        limit = context[bound]
        return f"a number {words} {limit:{',' if isinstance(limit, int) else 'g'}}"
    if kind in ("too_short", "too_long"):
        if kind == "too_long" and context["max_length"] > 2:
            return f"at most {context['max_length']:,} values"
        return f"{context.get('min_length', context.get('max_length'))} values"
    if kind == "string_too_long":
        return f"at most {context['max_length']:,} characters"
    if kind == "string_pattern_mismatch":
        return f"text that matches {context['pattern']}"
    return EXPECTED.get(kind, "something else")


def _choices(detail: ErrorDetails) -> list[str]:
    """The alternatives in pydantic's phrase: "'a', 'b' or 2" -> [a, b, 2]."""
    return [each.strip("'") for each in re.split(", | or ", detail["ctx"]["expected"])]


def _nearest_key(location: tuple[str, ...]) -> str:
    """The most likely key: a similar one in this section, or the same one in another section."""
    *above, name = location
    if "." in name:
        section, _, inner = name.partition(".")
        return f"Write '{printable(inner)}' inside the section '{printable(section)}'."
    siblings = sections()[".".join(above)].model_fields
    if not closest(name, siblings, 0.8):
        for field in fields():
            if field.path.endswith(f".{name}"):
                return f"Did you mean '{field.path}'?"
    return nearest(name, siblings)
