"""`simsmoe list`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
from rich.console import Console

from simsmoe_cli import registry
from simsmoe_cli.cli.list import list_names
from simsmoe_cli.recipe.load import list_recipes, load_recipe

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def test_recipes_with_what_they_are_and_where_from(simsmoe: Command) -> None:
    done = simsmoe("list", "recipes", "--json")
    assert done.returncode == 0
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert list(rows) == [name for name, _ in list_recipes()]
    for name, row in rows.items():
        recipe = load_recipe(name)
        assert (row["help"], row["source"]) == (recipe.description, recipe.source)


def test_table_holds_whole_names_and_texts_when_piped(simsmoe: Command) -> None:
    lines = simsmoe("list", "recipes").stdout.splitlines()
    for name, _ in list_recipes():
        recipe = load_recipe(name)
        line = next(line for line in lines if line.startswith(f"{name} "))
        assert recipe.description in line
        assert recipe.source in line


@pytest.mark.parametrize("kind", sorted(registry.TABLES))
def test_tables_of_the_registry(simsmoe: Command, kind: str) -> None:
    done = simsmoe("list", kind, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == [
        {"name": name, "help": entry.help, "source": entry.source}
        for name, entry in registry.TABLES[kind].items()
    ]


@pytest.mark.parametrize("kind", sorted(registry.TABLES))
def test_a_name_is_one_line_in_a_terminal_of_120_columns(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Console(width=120)
    monkeypatch.setattr("simsmoe_cli.cli.list.console", lambda: screen)
    list_names(kind)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = registry.TABLES[kind].items()
    assert lines[1:] == [[name, *e.help.split(), *e.source.split()] for name, e in rows]


def test_an_unknown_kind_names_the_nearest(simsmoe: Command) -> None:
    done = simsmoe("list", "router")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean 'routers'?" in done.stderr
    assert done.stderr.count("\n") == 1
