"""Recipes as files: finding, reading, overriding and writing them.

The dialect is YAML 1.2's core schema, which differs from PyYAML's default where that one
surprises: 1e-3 is a number, on/off/yes/no are text, nothing is a date or a base-60 number. A key
given twice is an error, and so are anchors and tags. Importing this module never imports torch.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from simsmoe_cli.errors import Problem, UserError, nearest, printable
from simsmoe_cli.recipe import Recipe, fields
from simsmoe_cli.recipe_checks import contradictions, schema_problems

SUFFIXES = (".yaml", ".yml")

CORE_SCHEMA = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9][0-9_]*",
    "float": r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):
    """Core schema, no anchors; keys given twice are noted in `twice` with their lines."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012

    def __init__(self, text: str):
        super().__init__(text)
        self.twice: list[tuple[str, int]] = []

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(None, None, "recipes have no anchors", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(None, None, "a key must be a name", key.start_mark)
            if key.value in mapping:
                self.twice.append((key.value, key.start_mark.line + 1))
            mapping[key.value] = self.construct_object(value, deep=True)
        return mapping

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        return int(node.value.replace("_", ""))


class _Dumper(yaml.SafeDumper):
    """Quotes text that either dialect could take for something else; lists stay on one line."""

    def represent_flow_list(self, items: list[Any]) -> yaml.Node:
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)

    def represent_text(self, text: str) -> yaml.Node:
        style = None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


for _tag, _pattern in CORE_SCHEMA.items():
    for _dialect in (_Loader, _Dumper):
        _dialect.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), None
        )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_decimal)
_Dumper.add_representer(list, _Dumper.represent_flow_list)
_Dumper.add_representer(str, _Dumper.represent_text)


def recipes_dir() -> Path:
    """Where the recipes lie: inside an installed package, beside it in a checkout."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "recipes"


def list_recipes() -> list[tuple[str, Path]]:
    """Name and file of every recipe that comes with simsmoe, by name."""
    return sorted((path.stem, path) for path in recipes_dir().glob("*.yaml"))


def load_recipe(
    name_or_path: str, overrides: Sequence[str] = (), base: Mapping[str, Any] | None = None
) -> Recipe:
    """Find, read, override and validate a recipe.

    Args:
        name_or_path: a name of :func:`list_recipes`, or a YAML file.
        overrides: what `--set` got, each "a.b=value" with the value in YAML; later ones win.
            One that sets similarity.preset drops the file's whole similarity section, so that
            the preset's own defaults hold; other overrides of the section stay.
        base: what holds where the file says nothing, instead of the schema's defaults; a file that
            sets similarity.preset drops its whole similarity section.

    Raises:
        UserError: listing everything that is wrong with the recipe, or that it isn't there.
    """
    path = _find(name_or_path)
    data, problems = _read(path)
    if base is not None:
        similarity = data.get("similarity")
        preset = isinstance(similarity, dict) and "preset" in similarity
        data = _merged({**base, "similarity": {}} if preset else base, data)
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
        raise _error(name_or_path, problems)
    return recipe


def dump_recipe(recipe: Recipe, *, comments: bool = False) -> str:
    """YAML with every field, defaults and presets resolved; it loads to an equal recipe.

    Args:
        recipe: any.
        comments: put each field's documentation, type and default above it.
    """
    data = recipe.model_dump(exclude=recipe.idle_sections)
    if not comments:
        return _yaml(data)
    lines = []
    section = ""
    for field in fields(recipe):
        above, _, name = field.path.rpartition(".")
        if above != section:
            section = above
            lines += ["", f"{section}:"]
        indent = "  " if section else ""
        about = f"{field.help} ({field.type}; default {_yaml([field.default]).strip()[1:-1]})"
        lines += textwrap.wrap(
            about, 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
        lines.append(indent + _yaml({name: (data[section] if section else data)[name]}).rstrip())
    return "\n".join(lines) + "\n"


def _yaml(data: Any) -> str:
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9)


def read_header(path: Path) -> dict[str, str]:
    """Name, description and source of a recipe file, without validating the rest."""
    data, _ = _read(path)
    return {key: str(data.get(key, "")) for key in ("name", "description", "source")}


def _find(name_or_path: str) -> Path:
    known = dict(list_recipes())
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError("expected a recipe file, got a folder", where=name_or_path)
    if path.suffix in SUFFIXES or path.name != name_or_path:
        hint = "`simsmoe list recipes` names those that come with simsmoe."
        raise UserError("no such recipe file", where=name_or_path, hint=hint)
    hint = nearest(name_or_path, known)
    raise UserError(f"unknown recipe {name_or_path!r}", hint=f"{hint} Or give a YAML file.")


def _read(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """The mapping in a recipe file, its name filled in, and keys that are given twice."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        data = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"not valid YAML: {error.problem}", where=where) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError("not a text file in UTF-8", where=str(path)) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if data is None:
        raise UserError("the recipe is empty", where=str(path))
    if not isinstance(data, dict):
        raise UserError("a recipe is a mapping of fields, like 'name: mine'", where=str(path))
    data.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "custom")
    twice = [
        Problem((f"line {line}",), f"the key {key!r} is given twice") for key, line in loader.twice
    ]
    return data, twice


def _parse_override(text: str) -> tuple[str, Any] | Problem:
    path, equals, raw = text.partition("=")
    path = path.strip()
    if not equals or not all(path.split(".")):
        return Problem((f"--set {text}",), "expected FIELD=VALUE", "For example train.lr=1e-3.")
    loader = _Loader(raw)
    try:
        value = loader.get_single_data()
    except yaml.YAMLError:
        value = None
        failed = True
    else:
        failed = False
    is_text = any(field.path == path and field.type == "text" for field in fields())
    if is_text and not isinstance(value, str):
        return path, raw
    if failed or loader.twice:
        return Problem((f"--set {text}",), "the value is not valid YAML")
    return path, value


def _override(data: dict[str, Any], changes: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The recipe with the changes made; mappings are merged, all else is replaced."""
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
    """The recipe if nothing is wrong with it, and everything that is.

    Where fields are invalid, the rest is still checked for contradictions, with defaults in
    their place; a contradiction that such a field takes part in is not reported.
    """
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems, bad = schema_problems(error)
        rest = Recipe.model_validate(_without(data, bad))
        wrong = tuple(".".join(location) for location in bad)
        problems += [
            problem
            for problem in contradictions(rest)
            if not any(f"{path}.".startswith(f"{w}.") for path in problem.paths for w in wrong)
        ]
        return None, problems
    problems = contradictions(recipe)
    return recipe, problems


def _without(data: dict[str, Any], locations: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """A copy of the recipe without the fields at these places."""
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
            problem.what, where=f"recipe {label}: {problem.paths[0]}", hint=problem.hint
        )
    return UserError(
        f"{len(problems):,} problems in recipe {printable(label, 200)}",
        problems=[
            UserError(problem.what, where=problem.paths[0], hint=problem.hint)
            for problem in problems
        ],
    )
