"""Every field of a recipe is documented, in words that fit its type."""

from __future__ import annotations

import pytest

from simsmoe_cli.recipe.fields import default_of, fields
from simsmoe_cli.recipe.load import dump_recipe, load_recipe
from simsmoe_cli.recipe.schema import Recipe


def test_field_paths_are_unique_and_their_documentation_is_not_empty() -> None:
    paths = [field.path for field in fields()]
    assert len(paths) == len(set(paths))
    assert all(field.help and field.type for field in fields())


def test_comments_document_every_field() -> None:
    recipe = Recipe.model_validate({"moe": {"router": "xmoe"}})
    lines = dump_recipe(recipe, comments=True).splitlines()
    text = " ".join(" ".join(line.strip().lstrip("#") for line in lines).split())
    assert "xmoe.tau" in {field.path for field in fields(recipe)}
    for field in fields(recipe):
        assert field.help in text


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("train.steps", "whole number"),
        ("train.lr", "number"),
        ("model.bias", "true or false"),
        ("data.corpus", "text"),
        ("train.betas", "list of numbers"),
        ("train.optimizer", "one of adam, adamw"),
        ("moe.balance_weight", "number or 'auto'"),
        ("similarity.weight", "number or schedule"),
        ("similarity.sigma", "number, 'median' or schedule"),
    ],
)
def test_types_are_said_in_words(path: str, words: str) -> None:
    (field,) = (field for field in fields() if field.path == path)
    assert field.type == words


def test_idle_sections_are_left_out_of_a_recipes_own_fields() -> None:
    paths = {field.path for field in fields(load_recipe("quickstart"))}
    assert "train.lr" in paths
    assert not paths & {"xmoe.tau", "finetune.task"}
    assert default_of("train.lr") == 1e-3
