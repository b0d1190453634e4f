"""Options that several commands share: the same everywhere."""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from simsmoe_cli.cli.main import app
from simsmoe_cli.cli.options import all_overrides, shell

COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
ENVIRONMENT = {"--data-dir": "SIMSMOE_DATA", "--runs-dir": "SIMSMOE_RUNS"}


@pytest.mark.parametrize("flag", ["--data-dir", "--runs-dir", "--device", "--set"])
def test_an_option_is_the_same_in_every_command(flag: str) -> None:
    found = {
        (option.help, option.envvar, str(option.default))
        for command in COMMANDS.values()
        for option in command.params
        if flag in option.opts
    }
    ((_, variable, _),) = found
    assert variable == ENVIRONMENT.get(flag)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_function_of_a_command_is_short(name: str) -> None:
    """Options have a line each; what is done with them is short."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(COMMANDS[name].callback)))
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    first, last = function.body[0], function.body[-1]
    assert (last.end_lineno or 0) - first.lineno < 55


def test_options_of_their_own_come_after_set() -> None:
    overrides = all_overrides(["moe.top_k=1"], router="switch", similarity=None, experts="loop")
    assert overrides == ["moe.top_k=1", "moe.router=switch", "moe.backend=loop"]
    assert all_overrides(None) == []


def test_a_command_line_can_be_pasted() -> None:
    assert shell("simsmoe", "eval", Path("my runs/a")) == "simsmoe eval 'my runs/a'"
