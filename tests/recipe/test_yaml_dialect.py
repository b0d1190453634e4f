"""YAML as recipes use it: no tags, anchors or surprises, and the line of what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.recipe.schema import Recipe
from tests.recipe.given import loaded, problem


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("name: a\nmoe: {hidden: !!int abc}\n", 2, "recipes have no tags, such as !!int"),
        ("moe: {hidden: !!bool maybe}\n", 1, "recipes have no tags, such as !!bool"),
        ("a: !!timestamp x\n", 1, "recipes have no tags"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "recipes have no tags"),
        ("a: !!binary '='\n", 1, "recipes have no tags"),
        ("!!set {a}\n", 1, "recipes have no tags"),
        ("!!omap [a: 1]\n", 1, "recipes have no tags"),
        ("a: ! b\n", 1, "recipes have no tags"),
        ("!a b: 1\n", 1, "recipes have no tags"),
        ("name: a\nmoe: &x {hidden: 8}\n", 2, "recipes have no anchors"),
        ("name: a\nmoe: *x\n", 2, "recipes have no anchors"),
        ("name: a\n? [x]\n: 1\n", 2, "a key must be a name"),
        ("name: a\n---\nname: b\n", 2, "a recipe is one document, and this is another"),
        ("name: a\nsource: \x00\n", 2, "the character '\\x00' is not allowed"),
        ("name: a\n\nsource: \x1b[31m\n", 3, "the character '\\x1b' is not allowed"),
        ("train:\n\tsteps: 3\n", 2, "found character '\\t' that cannot start any token"),
        ('name: a\nsource: "\\ud800"\n', 2, "an escape that is not a character"),
        ('name: a\nsource: "\\UFFFFFFFF"\n', 2, "an escape that is not a character"),
        ("train: {seed: " + "9" * 5000 + "}\n", 1, "a whole number of 5,000 digits is too large"),
        ("a: " + "[" * 50_000, 1, "nested too deeply"),
        ("{a: " * 50_000, 1, "nested too deeply"),
        ("- " * 50_000, 1, "nested too deeply"),
    ],
)
def test_what_yaml_could_say_and_a_recipe_cannot(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8", newline="")
    assert problem(str(file)).startswith(f"{file}:{line}: not valid YAML: {said}")
    value = text.rstrip().partition(": ")[2]
    if text.startswith("a: ") and "\n" not in value:
        assert f"the value is not valid YAML: {said}" in problem("quickstart", f"train.lr={value}")


@pytest.mark.parametrize("text", ["on", "1e-3", "null", "2024-01-01", "0x10", "~", "", "1:30"])
def test_text_that_looks_like_something_else_stays_text(tmp_path: Path, text: str) -> None:
    recipe = Recipe.model_validate({"description": text})
    assert loaded(tmp_path, dump_recipe(recipe)).description == text
