"""What can be wrong with a recipe, in plain words, all of it at once.

Two sources: the schema (pydantic's errors: unknown keys, types, ranges), put into words by
:func:`schema_problems`; and settings that are each fine but contradict one another or would be
ignored, found by :func:`contradictions`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from simsmoe_cli import registry
from simsmoe_cli.errors import MOST_LINES, Problem, closest, nearest, printable
from simsmoe_cli.recipe.router_checks import ignored_settings, router_problems
from simsmoe_cli.recipe.schedule import Schedule
from simsmoe_cli.recipe.schema import Recipe, fields, listed, sections
from simsmoe_cli.recipe.similarity_checks import similarity_problems

# Experts' widths the grouped backend takes are multiples of this (16-byte rows in bf16).
GROUPED_ALIGNMENT = 8
MOST_ROWS = 2**24
MOST_LAYERS = 2_000  # sub-layers of a model

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
    """A given value on one short line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    return printable(repr(value))


def schema_problems(error: ValidationError) -> tuple[list[Problem], list[tuple[str, ...]]]:
    """Pydantic's errors in plain words, and the places of the fields they are about.

    The errors of one field (the alternatives of its type, the items of its list) are one problem.
    """
    by_place: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_place.setdefault(_place(detail["loc"]), []).append(detail)
    # Looking for the nearest name takes time, and no more than so many are shown.
    problems = [
        _schema_problem(place, details)
        if number < MOST_LINES
        else Problem((".".join(place),), "not valid")
        for number, (place, details) in enumerate(by_place.items())
    ]
    return problems, list(by_place)


def _place(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """Section and field of an error, without pydantic's further steps into values."""
    depth = 2 if location[0] in sections() else 1
    return tuple(str(step) for step in location[:depth])


def _schema_problem(place: tuple[str, ...], details: list[ErrorDetails]) -> Problem:
    paths = (".".join(place),)
    # Of the alternatives of a type, the one that a value out of range or the items of a list
    # came closest to says what is wrong.
    nearer = [
        each
        for each in details
        if each["type"] in LIMITS or any(isinstance(step, int) for step in each["loc"])
    ]
    details = nearer[:1] or details
    detail = details[0]
    given, kind = detail["input"], detail["type"]
    if kind == "extra_forbidden":
        return Problem(paths, "unknown key", _nearest_key(place))
    if kind == "string_pattern_mismatch" and "\\P{C}" in detail["ctx"]["pattern"]:
        return Problem(paths, f"no control characters are allowed, got {shown(given)}")
    index = next((step for step in detail["loc"] if isinstance(step, int)), None)
    if index is not None:
        return Problem(paths, f"item {index + 1}: {_complaint(detail)}")
    if len(details) > 1:
        expected = listed([_expected(each) for each in details])
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
    """What a field is, in the words of the recipe."""
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


def _nearest_key(place: tuple[str, ...]) -> str:
    """The valid key a wrong one most likely meant: in its section, or of its name elsewhere."""
    *above, name = place
    if "." in name:
        section, _, inner = name.partition(".")
        return f"Write '{printable(inner)}' inside the section '{printable(section)}'."
    siblings = sections()[".".join(above)].model_fields
    if not closest(name, siblings, 0.8):
        for field in fields():
            if field.path.endswith(f".{name}"):
                return f"Did you mean '{field.path}'?"
    return nearest(name, siblings)


def contradictions(recipe: Recipe) -> list[Problem]:
    """Settings that cannot hold together, and settings that would be ignored."""
    return [
        *_model_problems(recipe),
        *_moe_problems(recipe),
        *router_problems(recipe),
        *similarity_problems(recipe),
        *_train_problems(recipe),
        *_eval_problems(recipe),
        *_finetune_problems(recipe),
    ]


def _model_problems(recipe: Recipe) -> Iterator[Problem]:
    model = recipe.model
    layers = len(model.sublayers)
    if layers > MOST_LAYERS:
        yield Problem(
            ("model.repeats", "model.pattern"),
            f"{layers:,} sub-layers are more than the {MOST_LAYERS:,} there may be",
            f"Use at most {MOST_LAYERS // len(model.pattern):,}.",
        )
    if model.width % model.heads:
        divisors = [n for n in range(1, model.width + 1) if model.width % n == 0]
        yield Problem(
            ("model.heads", "model.width"),
            f"{model.heads} heads do not divide the width {model.width}",
            f"The nearest number that does is {_closest(model.heads, divisors)}.",
        )
    elif model.attention == "rope" and (model.width // model.heads) % 2:
        yield Problem(
            ("model.heads", "model.width", "model.attention"),
            f"rope needs an even head width, and {model.width}/{model.heads} is odd",
            "Change model.heads or model.width.",
        )
    if model.moe_norm == "double" and "g" not in model.pattern:
        yield Problem(
            ("model.moe_norm", "model.pattern"),
            f"'double' needs a mixture of experts, and pattern '{model.pattern}' has no g",
            "Set it to single.",
        )
    if model.attention == "relative" and model.rope_base != _default("model.rope_base"):
        yield Problem(
            ("model.rope_base", "model.attention"),
            "has no effect with relative attention",
            "Leave it out.",
        )


def _moe_problems(recipe: Recipe) -> Iterator[Problem]:
    moe, model = recipe.moe, recipe.model
    if moe.router not in registry.ROUTERS:
        yield Problem(
            ("moe.router",),
            f"unknown router {shown(moe.router)}",
            nearest(moe.router, registry.ROUTERS),
        )
    if "g" not in model.pattern:
        return
    if moe.top_k > moe.experts:
        yield Problem(
            ("moe.top_k", "moe.experts", "model.pattern"),
            f"{moe.top_k} experts per token are more than the {moe.experts} there are",
            f"Use at most {moe.experts}.",
        )
    for path, size in (("model.width", model.width), ("moe.hidden", moe.hidden)):
        if moe.backend == "grouped" and size % GROUPED_ALIGNMENT:
            yield Problem(
                (path, "moe.backend", "model.pattern"),
                f"the grouped backend needs a multiple of {GROUPED_ALIGNMENT}, got {size}",
                "Or set moe.backend to auto.",
            )


def _train_problems(recipe: Recipe) -> Iterator[Problem]:
    train = recipe.train
    if train.batch % train.micro_batches:
        divisors = [n for n in range(1, train.batch + 1) if train.batch % n == 0]
        yield Problem(
            ("train.micro_batches", "train.batch"),
            f"{train.micro_batches} does not divide the batch of {train.batch}",
            f"The nearest number that does is {_closest(train.micro_batches, divisors)}.",
        )
    elif (rows := _rows(recipe)) > MOST_ROWS:
        yield Problem(
            ("train.batch", "train.micro_batches", "train.block", "moe.top_k", "model.pattern"),
            f"a micro-batch of {rows:,} tokens, counted once for each of their experts, is more "
            f"than the {MOST_ROWS:,} there may be",
            "Raise train.micro_batches, or lower train.batch or train.block.",
        )
    if train.order == "shuffled" and recipe.model.attention == "relative":
        yield Problem(
            ("train.order", "model.attention"),
            "relative attention carries memory from block to block, so blocks must be in order",
            "Set it to auto or contiguous.",
        )
    if train.warmup_steps > train.steps:
        yield Problem(
            ("train.warmup_steps", "train.steps"),
            f"{train.warmup_steps} steps of warm-up are more than the {train.steps} of training",
            f"Use at most {train.steps}.",
        )
    if any(not 0 <= beta < 1 for beta in train.betas):
        yield Problem(
            ("train.betas",), f"must each be at least 0 and below 1, got {shown(train.betas)}"
        )
    if train.schedule == "multistep":
        if not train.milestones:
            yield Problem(
                ("train.milestones", "train.schedule"),
                "schedule multistep needs at least one step",
                "For example [20000, 40000].",
            )
        if any(a >= b for a, b in itertools.pairwise([0, *train.milestones])):
            yield Problem(
                ("train.milestones",),
                f"must be positive and ascending, got {shown(train.milestones)}",
            )
    for name, schedules in (
        ("milestones", ("multistep",)),
        ("gamma", ("multistep",)),
        ("final_lr_ratio", ("linear", "cosine")),
    ):
        given = getattr(train, name)
        if train.schedule not in schedules and given != _default(f"train.{name}"):
            yield Problem(
                (f"train.{name}", "train.schedule"),
                f"has no effect with schedule {train.schedule}",
                f"Leave it out, or set train.schedule to {' or '.join(schedules)}.",
            )


def _rows(recipe: Recipe) -> int:
    """Rows of activations that a micro-batch has in its widest sub-layer."""
    train = recipe.train
    each = recipe.moe.top_k if "g" in recipe.model.pattern else 1
    return train.batch // train.micro_batches * train.block * each


def _eval_problems(recipe: Recipe) -> Iterator[Problem]:
    overlap, block = recipe.eval.overlap, recipe.train.block
    if overlap and recipe.model.attention == "relative":
        yield Problem(
            ("eval.overlap", "model.attention"),
            "relative attention carries its context along, so blocks must not overlap",
            "Set it to 0.",
        )
    elif overlap >= block:
        yield Problem(
            ("eval.overlap", "train.block"),
            f"{overlap} leaves nothing new in a block of {block}",
            f"Use at most {block - 1}.",
        )


def _finetune_problems(recipe: Recipe) -> Iterator[Problem]:
    if not recipe.finetune.task:
        yield from ignored_settings(
            "finetune",
            recipe.finetune,
            "pre-training",
            "or set finetune.task",
            "finetune.task",
        )
        return
    for name in ("order", "validate_blocks"):
        if getattr(recipe.train, name) != _default(f"train.{name}"):
            yield Problem(
                (f"train.{name}", "finetune.task"),
                "has no effect in fine-tuning, which shuffles examples and validates on all",
                "Leave it out.",
            )
    yield from ignored_settings(
        "eval", recipe.eval, "a task", "as a task is evaluated text by text", "finetune.task"
    )


def _closest(number: int, candidates: Iterable[int]) -> int:
    return min(candidates, key=lambda candidate: (abs(candidate - number), candidate))


def _default(path: str) -> Any:
    return next(field.default for field in fields() if field.path == path)
