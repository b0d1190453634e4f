"""What the shell is offered at the tab key."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from simsmoe_cli.cli import main
from simsmoe_cli.recipe.load import list_recipes
from tests.compare.made_runs import made_run

Offered = Callable[[str], list[str]]


@pytest.fixture
def offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Offered:
    """The completions of a command line, asked for as zsh does."""
    made_run(tmp_path / "runs" / "plain-1")
    made_run(tmp_path / "runs" / "plain-2")
    (tmp_path / "data" / "mine").mkdir(parents=True)
    (tmp_path / "data" / "mine" / "manifest.json").touch()
    monkeypatch.chdir(tmp_path)

    def complete(line: str) -> list[str]:
        monkeypatch.setenv("_SIMSMOE_COMPLETE", "complete_zsh")
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        with pytest.raises(SystemExit):
            main.run([])
        return re.findall(r'^(?:.*\(\()?"([^"]*)"', capsys.readouterr().out, re.MULTILINE)

    return complete


def test_names_are_completed(offered: Offered) -> None:
    assert offered("simsmoe compare pl") == ["plain-1", "plain-2"]
    assert offered("simsmoe runs rm plain-2 plain-1") == ["plain-1"]
    assert offered("simsmoe pretrain --resume p") == ["plain-1", "plain-2"]
    recipes = [name for name, _ in list_recipes() if name.startswith("mistral")]
    assert offered("simsmoe show mistral") == recipes
    assert offered("simsmoe pretrain --recipe mistral") == recipes
    assert offered("simsmoe prepare-data enw") == ["enwik8"]
    assert offered("simsmoe pretrain --set data.corpus=m") == ["data.corpus=mine"]


def test_settings_are_completed_by_name_and_value(offered: Offered) -> None:
    assert offered("simsmoe pretrain --set train.lo") == ["train.log_every="]
    assert offered("simsmoe finetune --set finetune.pooling=") == [
        "finetune.pooling=last",
        "finetune.pooling=mean",
    ]
    assert offered("simsmoe pretrain --set model.bias=t") == ["model.bias=true"]
    assert offered("simsmoe pretrain --set no.such=") == []


RUN_OPTIONS = ("--from", "--resume", "--against")
EVERY = {
    "pretrain": "--from --resume", "finetune": "--from --resume", "eval": "", "generate": "",
    "export": "", "upcycle": "", "monitor": "", "collapse-report": "--against", "compare": "",
    "runs rm": "", "runs rename": "", "runs tag": "",
}  # fmt: skip
NOT_BY_NAME = ("pretrain", "finetune")  # which have options for runs, and no argument


def parameters(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every parameter of every command, with the command's name."""
    for part, inner in getattr(command, "commands", {}).items():
        yield from parameters(inner, f"{name} {part}".strip())
        for parameter in inner.params:
            yield f"{name} {part}".strip(), parameter


def test_wherever_a_run_is_asked_for_runs_are_offered(offered: Offered) -> None:
    found: dict[str, set[str]] = {}
    for command, parameter in parameters(typer.main.get_command(main.app)):
        words = f"{parameter.metavar} {parameter.help}"
        if re.search(r"\b(RUN|DENSE)\b(?!/)", words) or words.startswith(("None Run folder",)):
            options = set(parameter.opts) & set(RUN_OPTIONS)
            found.setdefault(command, set()).update(options)
    assert set(EVERY) <= set(found)
    for command, options in EVERY.items():
        assert found[command] == set(options.split()), command
        for option in [*options.split(), *([""] if command not in NOT_BY_NAME else [])]:
            run = "plain-1 " if option == "--against" else ""
            line = f"simsmoe {command} {run}{option + ' ' if option else ''}plain-2"
            assert offered(line) == ["plain-2"], line


def test_names_of_recipes_data_and_parts_are_offered_by_every_command(offered: Offered) -> None:
    for command in ("pretrain", "finetune", "sweep"):
        assert offered(f"simsmoe {command} --recipe quick") == ["quickstart"]
    for command in ("pretrain", "finetune", "show"):
        assert offered(f"simsmoe {command} --router xm") == ["xmoe"]
        assert offered(f"simsmoe {command} --set moe.router=xm") == ["moe.router=xmoe"]
    assert offered("simsmoe eval plain-1 --data m") == ["mine"]
    assert offered("simsmoe prepare-data enwik8 --vocab-from m") == ["mine"]
    assert offered("simsmoe eval plain-1 --task imd") == ["imdb"]
    assert offered("simsmoe finetune --task imd") == ["imdb"]
    assert offered("simsmoe pretrain --experts gr") == ["grouped"]


def test_runs_of_the_folder_that_is_asked_for(
    offered: Offered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_run(tmp_path / "elsewhere" / "plain-3")
    assert offered("simsmoe compare --runs-dir elsewhere pl") == ["plain-3"]
    monkeypatch.setenv("SIMSMOE_RUNS", str(tmp_path / "elsewhere"))
    assert offered("simsmoe collapse-report pl") == ["plain-3"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_what_install_completion_installs_works_in_bash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a home of its own, as a shell that is opened afterwards: the words are those that bash
    itself makes of a line, which it splits at each =."""
    home, program = tmp_path / "home", tmp_path / "bin" / "simsmoe"
    home.mkdir()
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m simsmoe_cli "$@"\n')
    program.chmod(0o755)
    made_run(tmp_path / "runs" / "plain-1")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "bash"))  # whatever this is
    with pytest.raises(SystemExit) as ended:
        main.run(["--install-completion", "bash"])
    assert ended.value.code in (0, None)
    assert (home / ".bashrc").read_text().count("source ") == 1
    asks = """
        source ~/.bashrc
        ask() {
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            $(complete -p simsmoe | sed 's/.*-F \\([^ ]*\\).*/\\1/') simsmoe
            echo "${COMPREPLY[*]}"
        }
        ask simsmoe collapse-report pl
        ask simsmoe pretrain --set moe.router = xm
        ask simsmoe pretrain --set model.width = 64 --set model.norm =
        ask simsmoe pretrain --set = moe.router = xm
        ask simsmoe pretrain --recipe = quicks
        ask simsmoe pretrain --recipe --name x --router xm
    """
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"HOME": str(home), "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        ["bash", "-c", asks], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    expected = ["plain-1", "xmoe", "layernorm rmsnorm", "xmoe", "quickstart", "xmoe"]
    assert said.stdout.splitlines() == expected, said.stderr
