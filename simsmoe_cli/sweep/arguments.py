"""Seeds, fields and values of a sweep, as a command line writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from simsmoe_cli.errors import UserError, printable
from simsmoe_cli.recipe.yaml_dialect import FaultyYaml, read_yaml

MOST_SEEDS = 1_000


def assignments(texts: Sequence[str], where: str) -> dict[str, Any]:
    """Settings by field, of texts such as "train.steps=800" with values in YAML.

    Raises:
        UserError: one is not of this form.
    """
    found = {}
    for text in texts:
        field, values = parse_axis(text, where)
        if len(values) != 1:
            raise UserError("expected a single value", where=f"{where} {printable(text)}")
        found[field] = values[0]
    return found


def parse_axis(text: str, option: str = "--grid") -> tuple[str, list[Any]]:
    """Field and values of a `--grid`: "moe.router=smoe,xmoe"; values are YAML.

    Raises:
        UserError: it is not of this form.
    """
    field, equals, raw = text.partition("=")
    field = field.strip()
    where = f"{option} {printable(text)}"
    if not equals or not field or not raw.strip():
        raise UserError("expected FIELD=VALUE", where=where, hint="For example moe.router=smoe.")
    try:
        values, _ = read_yaml(f"[{raw}]")
    except FaultyYaml as fault:
        raise UserError(
            f"the values are not valid YAML: {printable(fault.what, 200)}", where=where
        ) from None
    return field, values


def parse_axes(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Values by field, of all `--grid` options.

    Raises:
        UserError: one is not of its form, or two name the same field.
    """
    axes: dict[str, list[Any]] = {}
    for text in texts:
        field, values = parse_axis(text)
        require_new(field, axes)
        axes[field] = values
    return axes


def require_new(field: str, axes: Mapping[str, Any]) -> None:
    """Raise a UserError for a field that an earlier `--grid` has."""
    if field in axes:
        raise UserError(
            f"{printable(field)} is given twice",
            where="--grid",
            hint="Give all its values in one --grid, with commas.",
        )


def given_seeds(text: str) -> list[int]:
    """The seeds of `--seeds`.

    Raises:
        UserError: see `parse_seeds`.
    """
    try:
        return parse_seeds(text)
    except ValueError as error:
        raise UserError(str(error), where="--seeds") from None


def parse_seeds(given: Any) -> list[int]:
    """Seeds as a list: of "0-4", "0,2,5-7", a number, or a list of numbers.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(given, list) and all(type(seed) is int for seed in given):
        seeds = given
    else:
        seeds = []
        for part in str(given).split(","):
            ends = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
            if ends is None:
                raise ValueError(f"expected seeds such as 0-4 or 0,1,2, got {printable(given)}")
            low, high = int(ends[1]), int(ends[2] or ends[1])
            if high < low:
                raise ValueError(f"expected the lower seed first, got {printable(given)}")
            if high - low >= MOST_SEEDS:
                raise ValueError(f"more than {MOST_SEEDS:,} seeds")
            seeds += range(low, high + 1)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"expected at least one seed, and each once, got {printable(given)}")
    return list(seeds)
