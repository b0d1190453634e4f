"""Recipes as files: finding, reading, overriding, validating and writing them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from simsmoe_cli.errors import UserError, nearest, printable
from simsmoe_cli.files.names import name_from
from simsmoe_cli.files.untrusted import Unreadable, read_bytes
from simsmoe_cli.recipe.checks import contradictions
from simsmoe_cli.recipe.fields import fields
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.recipe.schema_errors import schema_problems
from simsmoe_cli.recipe.section import Problem
from simsmoe_cli.recipe.yaml_dialect import FaultyYaml, read_yaml, write_yaml

SUFFIXES = (".yaml", ".yml")
MOST_BYTES = 500_000  # of a recipe file


def recipes_dir() -> Path:
    """The folder of recipes: inside an installed package, or next to the package in a checkout."""
    return _beside_or_inside("recipes")


def guide() -> Path:
    """The page on how to choose the settings of similarity learning."""
    return _beside_or_inside("docs/choosing.md")


def _beside_or_inside(name: str) -> Path:
    inside = Path(__file__).parents[1] / name
    return inside if inside.exists() else Path(__file__).parents[2] / name


def list_recipes() -> list[tuple[str, Path]]:
    """Name and file of every recipe that comes with simsmoe, by name."""
    return sorted((path.stem, path) for path in recipes_dir().glob("*.yaml"))


def list_sweeps() -> list[tuple[str, Path]]:
    """Name and file of every sweep that comes with simsmoe, by name."""
    return sorted((path.stem, path) for path in (recipes_dir() / "sweeps").glob("*.yaml"))


def load_recipe(
    name_or_path: str, overrides: Sequence[str] = (), base: Mapping[str, Any] | None = None
) -> Recipe:
    """Find, read, override and validate a recipe.

    Args:
        name_or_path: a name of :func:`list_recipes`, or a YAML file.
        overrides: values of `--set`, each "a.b=value" with the value in YAML; later ones win.
            One that sets similarity.preset drops the file's whole similarity section, so that
            the preset's own values apply; other overrides of the section stay.
        base: values to use where the file has none, instead of the schema's defaults. A file that
            sets similarity.preset drops the whole similarity section of `base`.

    Raises:
        UserError: the recipe does not exist, or has errors; all errors are in the message.
    """
    path = find_recipe(name_or_path)
    data, problems = _read(path)
    if base is not None:
        similarity = data.get("similarity")
        preset = isinstance(similarity, dict) and "preset" in similarity
        data = _merged({**base, "similarity": {}} if preset else base, data)
    return _with_overrides(name_or_path, data, overrides, problems)


def override_recipe(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe with overrides, as `load_recipe` would load it from a file of its own."""
    data = recipe.model_dump(exclude=recipe.idle_sections)
    return _with_overrides(recipe.name, data, overrides, [])


def require_ranks(recipe: Recipe, ranks: int) -> None:
    """Raise a UserError unless this many processes can train a recipe."""
    train = recipe.train
    problems = [
        *recipe.parallel.problems_of(ranks, train.batch, train.micro_batches),
        *recipe.similarity.problems_of(ranks),
    ]
    if problems:
        raise _error(recipe.name, problems)


def _with_overrides(
    name: str, data: dict[str, Any], overrides: Sequence[str], problems: list[Problem]
) -> Recipe:
    """The recipe of a mapping; a UserError for all problems together."""
    changes: list[tuple[str, Any]] = []
    for text in overrides:
        change = _parse_override(text)
        if isinstance(change, Problem):
            problems.append(change)
        else:
            changes.append(change)
    recipe, invalid = _validate(_override(data, changes))
    problems += invalid
    if recipe is None or problems:
        raise _error(name, problems)
    return recipe


def dump_recipe(recipe: Recipe, *, comments: bool = False) -> str:
    """YAML with every field, defaults and presets resolved; loading it gives an equal recipe.

    Args:
        recipe: any.
        comments: write the description, type and default of each field above it.
    """
    data = recipe.model_dump(exclude=recipe.idle_sections)
    if not comments:
        return write_yaml(data)
    lines = []
    section = ""
    for field in fields(recipe):
        above, _, name = field.path.rpartition(".")
        if above and name not in data[above]:
            continue
        if above != section:
            section = above
            lines += ["", f"{section}:"]
        indent = "  " if section else ""
        about = f"{field.help} ({field.type}; default {write_yaml([field.default]).strip()[1:-1]})"
        lines += textwrap.wrap(
            about,
            100,
            initial_indent=f"{indent}# ",
            subsequent_indent=f"{indent}# ",
            break_on_hyphens=False,
        )
        value = (data[section] if section else data)[name]
        lines.append(textwrap.indent(write_yaml({name: value}).rstrip(), indent))
    return "\n".join(lines) + "\n"


def read_header(path: Path) -> dict[str, str]:
    """Name, description and source of a recipe file, without validating the rest."""
    data, _ = _read(path)
    return {key: str(data.get(key, "")) for key in ("name", "description", "source")}


def find_recipe(name_or_path: str) -> Path:
    known = dict(list_recipes())
    if name_or_path in known:
        return known[name_or_path]
    if not name_or_path:
        raise UserError("a recipe is a name or a file, and this is empty", hint=nearest("", known))
    path = Path(name_or_path)
    where = printable(name_or_path, 200)
    try:
        if path.is_dir():
            raise UserError("expected a recipe file, got a folder", where=where)
        if path.exists():
            return path
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=where) from None
    if path.suffix in SUFFIXES or path.name != name_or_path:
        hint = "`simsmoe list recipes` names those that come with simsmoe."
        raise UserError("no such recipe file", where=where, hint=hint)
    hint = nearest(name_or_path, known)
    shown = printable(name_or_path)
    raise UserError(f"unknown recipe '{shown}'", hint=f"{hint} Or give a YAML file.")


def _read(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """The mapping in a recipe file, with its name filled in, and its duplicate keys."""
    where = printable(path, 200)
    try:
        content = read_bytes(path, MOST_BYTES)
    except FileNotFoundError:
        raise UserError("no such recipe file", where=where) from None
    except Unreadable as error:
        raise UserError(f"the recipe {error}", where=where) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError("not a text file in UTF-8", where=where) from None
    try:
        data, given_twice = read_yaml(text)
    except FaultyYaml as fault:
        where = f"{where}:{fault.line}" if fault.line else where
        raise UserError(f"not valid YAML: {printable(fault.what, 200)}", where=where) from None
    if data is None:
        raise UserError("the recipe is empty", where=where)
    if not isinstance(data, dict):
        raise UserError("a recipe is a mapping of fields, like 'name: mine'", where=where)
    data.setdefault("name", name_from(path.stem) or "custom")
    twice = [
        Problem((f"line {line}",), f"the key '{printable(key)}' is given twice")
        for key, line in given_twice
    ]
    return data, twice


def _parse_override(text: str) -> tuple[str, Any] | Problem:
    path, equals, raw = text.partition("=")
    path = path.strip()
    label = f"--set {printable(text)}"
    if not equals or not all(path.split(".")):
        return Problem((label,), "expected FIELD=VALUE", "For example train.lr=1e-3.")
    if path.count(".") > 1:
        return Problem((label,), "a field is SECTION.NAME or NAME", "For example train.lr=1e-3.")
    value: Any = None
    trouble = ""
    try:
        value, twice = read_yaml(raw)
        if twice:
            trouble = f"the key '{printable(twice[0][0])}' is given twice"
    except FaultyYaml as fault:
        trouble = fault.what
    is_text = any(field.path == path and field.type == "text" for field in fields())
    if is_text and (trouble or not isinstance(value, str)):
        return path, raw
    if trouble:
        return Problem((label,), f"the value is not valid YAML: {printable(trouble, 200)}")
    return path, value


def _override(data: dict[str, Any], changes: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The recipe with the changes; mappings are merged, other values replaced."""
    if any(
        path == "similarity.preset"
        or (path == "similarity" and isinstance(value, dict) and "preset" in value)
        for path, value in changes
    ):
        data = {**data, "similarity": {}}
    for path, value in changes:
        for step in reversed(path.split(".")):
            value = {step: value}
        data = _merged(data, value)
    return data


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def _validate(data: dict[str, Any]) -> tuple[Recipe | None, list[Problem]]:
    """The recipe if it has no problems, and the list of its problems.

    If fields are invalid, the others are still checked for contradictions, with defaults instead
    of the invalid ones; a contradiction that involves an invalid field is not reported.
    """
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems, bad = schema_problems(error)
        rest = Recipe.model_validate(_without(data, bad))
        wrong = {".".join(location) for location in bad}
        problems += [
            problem
            for problem in contradictions(rest)
            if not any({path, path.partition(".")[0]} & wrong for path in problem.paths)
        ]
        return None, problems
    problems = contradictions(recipe)
    return recipe, problems


def _without(data: dict[str, Any], locations: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """A copy of the recipe without these fields, each given as (section, name)."""
    kept = {k: dict(v) if isinstance(v, dict) else v for k, v in data.items()}
    for location in locations:
        section = kept
        for step in location[:-1]:
            section = section[step]
        section.pop(location[-1], None)
    return kept


def _error(label: str, problems: Sequence[Problem]) -> UserError:
    if len(problems) == 1:
        problem = problems[0]
        return UserError(
            problem.what,
            where=f"recipe {printable(label, 200)}: {printable(problem.paths[0])}",
            hint=problem.hint,
        )
    return UserError(
        f"{len(problems):,} problems in recipe {printable(label, 200)}",
        problems=[
            UserError(problem.what, where=printable(problem.paths[0]), hint=problem.hint)
            for problem in problems
        ],
    )
