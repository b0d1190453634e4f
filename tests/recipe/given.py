"""Recipes of the tests, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from simsmoe_cli.errors import EXIT_USAGE, UserError
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe


def problem(name: str, *overrides: str) -> str:
    """What is said about the recipe; it must be one problem on one line."""
    with pytest.raises(UserError) as caught:
        load_recipe(name, overrides)
    assert caught.value.code == EXIT_USAGE
    text = str(caught.value)
    assert "\n" not in text
    return text


def loaded(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return load_recipe(str(file), overrides)
