"""The command's frame: help, version, and errors as one line with an exit code."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_COLLAPSE, Terminated, UserError

Command = Callable[..., "subprocess.CompletedProcess[str]"]

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(simsmoe: Command, arguments: tuple[str, ...]) -> None:
    done = simsmoe(*arguments)
    assert done.returncode == 0
    assert done.stderr == ""
    for command in ("prepare-data", "pretrain", "eval", "list", "show", "doctor"):
        assert command in done.stdout


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in main.app.registered_commands:
        assert command.name is not None
        assert main.run([command.name, "--help"]) == 0
        assert "Usage: simsmoe" in capsys.readouterr().out


def test_version_is_that_of_the_distribution(simsmoe: Command) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    done = simsmoe("--version")
    assert (done.returncode, done.stdout) == (0, f"simsmoe {project['version']}\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["shw"], "No such command 'shw'. Did you mean 'show'?"),
        (["show"], "Missing argument 'RECIPE'"),
        (["show", "quickstart", "--sett"], "No such option: --sett"),
        (["show", "quickstart", "--set"], "requires an argument"),
        (["show", "quickstart", "--set", "--diff"], "--set: its value is missing: --diff follows."),
        (["finetune", "--resume", "--task", "sst2"], "--resume: its value is missing: --task "),
        (["eval", "--split", "-h"], "--split: its value is missing: -h follows."),
        (["show", "quickstart", "-s", "--diff"], "If --diff is meant as the value: --set=--diff"),
        (["runs", "--tag", "--json"], "--tag: its value is missing: --json follows."),
        (["list", "recipes", "again"], "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    simsmoe: Command, arguments: list[str], expected: str
) -> None:
    done = simsmoe(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("simsmoe: error: ")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "code", "stderr"),
    [
        (
            UserError("too alike", where="runs/[bold]x", code=EXIT_COLLAPSE),
            6,
            "simsmoe: error: runs/[bold]x: too alike\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (Terminated(), 143, "simsmoe: stopped by SIGTERM; nothing is left half-written\n"),
        (typer.Exit(143), 143, ""),
    ],
)
def test_what_a_command_raises_becomes_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
    stderr: str,
) -> None:
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise raised

    monkeypatch.setattr(main, "app", app)
    assert main.run([]) == code
    assert capsys.readouterr().err == stderr


def test_a_bug_is_not_dressed_up_as_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(main, "app", app)
    with pytest.raises(ZeroDivisionError):
        main.run([])
