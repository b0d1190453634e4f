"""What is not imported: commands that only look answer without loading torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.monitor.made_run import write_run

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "numpy", "textual", "sentencepiece", "pooch"}


def imported(program: str) -> set[str]:
    """Modules a fresh interpreter holds after the program."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint(*sys.modules, file=sys.stderr)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def command(*arguments: str) -> str:
    return f"from simsmoe_cli.cli.main import run\nassert run({list(arguments)}) == 0"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_first_answer_imports_nothing_heavy(arguments: list[str]) -> None:
    assert imported(command(*arguments)) & {*HEAVY, "pydantic", "yaml"} == set()


@pytest.mark.parametrize(
    "name",
    [
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
    ],
)
def test_help_of_a_command_imports_nothing_heavy(name: str) -> None:
    assert imported(command(name, "--help")) & HEAVY == set()


@pytest.mark.parametrize(
    "program",
    [
        command("list", "recipes"),
        command("list", "routers"),
        command("list", "corpora", "--json"),
        command("show", "quickstart"),
        command("show", "brainformer-large", "--similarity", "published", "--fields"),
        "from simsmoe_cli.recipe.load import load_recipe; load_recipe('mistral-modern')",
        "import simsmoe_cli.run.folder, simsmoe_cli.registry, simsmoe_cli.recipe.checks",
    ],
)
def test_looking_and_validating_import_no_torch(program: str) -> None:
    assert imported(program) & {"torch", "numpy"} == set()


@pytest.mark.parametrize("arguments", [["monitor", "run", "--once"], ["runs"]])
def test_a_look_at_runs_imports_no_torch_and_no_dashboard(
    arguments: list[str], tmp_path: Path
) -> None:
    write_run(tmp_path / "run", until=500)
    program = command(*arguments, "--runs-dir", str(tmp_path))
    found = imported(program)
    assert "numpy" in found
    assert found & {"torch", "textual"} == set()


def test_the_dashboard_imports_no_torch() -> None:
    found = imported("import simsmoe_cli.monitor.app")
    assert "textual" in found
    assert "torch" not in found


def test_the_probe_sees_what_is_imported() -> None:
    assert "torch" in imported("import simsmoe_cli.model.language_model")
