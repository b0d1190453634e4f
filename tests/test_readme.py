"""README's commands are those that run."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from simsmoe_cli.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = "python3 -m pip install -e '.[dev]' && python3 -m pytest"
    assert f"    {command}\n" in README
    script = (ROOT / ".ci" / "run").read_text()
    assert script.replace(" --quiet", "").rstrip().endswith(command)


def test_commands_and_options_in_the_readme_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    used = re.findall(r"(?:simsmoe|simsmoe_cli) ([a-z][a-z-]*)([^#\n`]*)", README)
    used = [(name, rest) for name, rest in used if rest[:1] != "."]
    known = [(name, rest) for name, rest in used if name in commands]
    assert {"pretrain", "prepare-data", "eval", "list", "show"} <= {name for name, _ in known}
    for name, rest in known:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in options, f"{name} has no {option}"


def test_every_command_is_in_the_readme() -> None:
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert re.search(rf"simsmoe(?:_cli)? {name}\b", README), name
