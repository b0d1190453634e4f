"""What is not imported: commands that only look answer without loading torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.monitor.made_run import write_run

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "numpy", "textual", "sentencepiece", "pooch"}


def imported(*programs: str) -> list[set[str]]:
    """Modules that a fresh interpreter holds after each of the programs, which it runs in turn."""
    told = "\nimport sys\nprint(*sys.modules, file=sys.stderr)\n"
    done = subprocess.run(
        [sys.executable, "-c", "".join(program + told for program in programs)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [set(line.split()) for line in done.stderr.splitlines()]


def command(*arguments: str) -> str:
    return f"from simsmoe_cli.cli.main import run\nassert run({list(arguments)}) == 0"


COMMANDS = [
    "prepare-data",
    "pretrain",
    "finetune",
    "eval",
    "monitor",
    "collapse-report",
    "compare",
    "runs",
    "generate",
    "export",
    "upcycle",
    "sweep",
    "reproduce",
    "list",
    "show",
    "doctor",
]
LOOKING = [
    command("list", "recipes"),
    command("list", "routers"),
    command("list", "corpora", "--json"),
    command("show", "quickstart"),
    command("show", "brainformer-large", "--similarity", "published", "--fields"),
    "from simsmoe_cli.recipe.load import load_recipe; load_recipe('mistral-modern')",
    "import simsmoe_cli.run.folder, simsmoe_cli.registry, simsmoe_cli.recipe.checks",
]


def test_the_first_answer_imports_nothing_heavy() -> None:
    for found in imported(command("--help"), command("--version")):
        assert found & {*HEAVY, "pydantic", "yaml"} == set()


def test_help_of_a_command_imports_nothing_heavy() -> None:
    found = imported(*(command(name, "--help") for name in COMMANDS))
    for name, modules in zip(COMMANDS, found, strict=True):
        assert modules & HEAVY == set(), name


def test_looking_and_validating_import_no_torch() -> None:
    for program, modules in zip(LOOKING, imported(*LOOKING), strict=True):
        assert modules & {"torch", "numpy"} == set(), program


@pytest.mark.parametrize("arguments", [["monitor", "run", "--once"], ["runs"]])
def test_a_look_at_runs_imports_no_torch_and_no_dashboard(
    arguments: list[str], tmp_path: Path
) -> None:
    write_run(tmp_path / "run", until=500)
    program = command(*arguments, "--runs-dir", str(tmp_path))
    (found,) = imported(program)
    assert "numpy" in found
    assert found & {"torch", "textual"} == set()


def test_the_dashboard_imports_no_torch() -> None:
    (found,) = imported("import simsmoe_cli.monitor.app")
    assert "textual" in found
    assert "torch" not in found


def test_the_probe_sees_what_is_imported() -> None:
    before, found = imported("pass", "import simsmoe_cli.model.language_model")
    assert "torch" not in before
    assert "torch" in found
