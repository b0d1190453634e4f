"""Every row of the registry leads to something, and unknown names to the nearest row."""

from __future__ import annotations

import pytest

from simsmoe_cli import registry
from simsmoe_cli.errors import UserError, nearest
from simsmoe_cli.recipe.moe import MoESettings
from simsmoe_cli.recipe.similarity import PRESETS

ROWS = [(table, name) for table, rows in registry.TABLES.items() for name in rows]


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_every_row_loads_and_says_what_it_is(table: str, name: str) -> None:
    assert registry.load(table, name) is not None
    assert registry.TABLES[table][name].help


@pytest.mark.parametrize("table", sorted(registry.TABLES))
def test_an_unknown_name_lists_the_known_ones(table: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.load(table, "nothing-like-it")
    assert "unknown" in str(caught.value)
    for name in registry.TABLES[table]:
        assert name in str(caught.value)


def test_every_preset_and_default_names_rows_that_exist() -> None:
    assert MoESettings().router in registry.ROUTERS
    for preset in PRESETS.values():
        assert preset.get("measure", "cka-linear") in registry.MEASURES


def test_nearest_suggests_only_what_is_near() -> None:
    assert nearest("enwik9", ["text8", "enwik8"]) == (
        "Did you mean 'enwik8'? Available: enwik8, text8."
    )
    assert nearest("wikipedia", ["text8", "enwik8"]) == "Available: enwik8, text8."
    assert nearest("anything", []) == "Available: none."


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UserError("it is empty"), "it is empty"),
        (UserError("it is empty", where="a.txt"), "a.txt: it is empty"),
        (UserError("it is empty", where="a.txt", hint="Fill it."), "a.txt: it is empty. Fill it."),
    ],
)
def test_a_user_error_reads_where_what_and_what_to_do(error: UserError, text: str) -> None:
    assert str(error) == text
