"""SIGTERM and Ctrl-C, whenever they come: a line, the right exit code, nothing half-written."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from simsmoe_cli.cli import main
from simsmoe_cli.data.corpora import prepare
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.data.tasks.prepare import prepare_task
from simsmoe_cli.errors import EXIT_SIGINT, EXIT_SIGTERM
from simsmoe_cli.export import folder as export
from simsmoe_cli.files import atomic
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run import checkpoint, weights
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train import device, session
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from simsmoe_cli.train.plan_pretraining import Plan
from tests.fuzz.driving import contents
from tests.train.tiny import recipe

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder, data/, with a task, and a runs folder with a trained run and its recipe."""
    folder = tmp_path_factory.mktemp("stopping")
    (folder / "data").symlink_to(corpus_dir)
    rows = "".join("text,label\n" if not n else f"import {n},{'ab'[n % 2]}\n" for n in range(60))
    (folder / "task.csv").write_text(rows)
    prepare_task(str(folder / "task.csv"), folder / "tasks/letters")
    made = recipe(train={"steps": 4, "checkpoint_every": 4, "probe_every": 0})
    (folder / "tiny.yaml").write_text(dump_recipe(made))
    store = TokenStore.open(corpus_dir / "sources")
    session.train(Plan(made, RunDir(folder / "runs/run"), None), store, torch.device("cpu"))
    return folder


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def signalled(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int = signal.SIGTERM
) -> None:
    """Send this process a signal where a function is called, and again while it leaves."""
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


def stopped(capsys: Capture, *arguments: str, number: int = signal.SIGTERM) -> None:
    """Run a command that the signal stops."""
    handler = signal.getsignal(signal.SIGTERM)
    capsys.readouterr()
    code = main.run(list(arguments))
    printed = capsys.readouterr()
    name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
    said = printed.err.strip().splitlines()[-1]
    assert said == f"simsmoe: stopped by {name}; nothing is left half-written"
    assert "Traceback" not in printed.err
    assert code == (EXIT_SIGTERM if number == signal.SIGTERM else EXIT_SIGINT)
    assert signal.getsignal(signal.SIGTERM) is handler


MOMENTS = {
    "planning": (device, "choose_device"),
    "opening the corpus": (session, "open_corpus"),
    "building the model": (LanguageModel, "__init__"),
    "beginning": (session, "dump_recipe"),
    "in the first step": (LanguageModelling, "loss"),
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", list(MOMENTS))
def test_a_run_that_had_not_started_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, moment: str, number: int
) -> None:
    before = contents(Path())
    signalled(monkeypatch, *MOMENTS[moment], number)
    stopped(capsys, "pretrain", "--recipe", "tiny.yaml", "--name", "new", number=number)
    assert contents(Path()) == before
    assert not Path("runs/new").exists()


RESUMED = {
    "reading its state": (checkpoint, "read_state"),
    "building the model": (LanguageModel, "__init__"),
    "restoring": (weights, "load_weights"),
    "in the first step": (LanguageModelling, "loss"),
}


@pytest.mark.parametrize("moment", list(RESUMED))
@pytest.mark.parametrize("checkpoints", ["one", "none"])
def test_a_run_that_had_not_gone_on_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    tmp_path: Path,
    folder: Path,
    moment: str,
    checkpoints: str,
) -> None:
    command = ["pretrain", "--recipe", "tiny.yaml", "--name", "run", "--runs-dir", str(tmp_path)]
    assert main.run(command) == 0
    if checkpoints == "none":
        atomic.remove(tmp_path / "run/checkpoints/step-0000004")
        if moment in ("reading its state", "restoring"):
            return
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        signalled(patch, *RESUMED[moment])
        again = "--resume", "auto", "--set", "train.steps=8", "--set", "train.keep_last=1"
        stopped(capsys, *command, *again)
    assert contents(tmp_path) == before


COMMANDS: dict[str, tuple[tuple[Any, str], list[str]]] = {
    "eval": ((LanguageModel, "__init__"), ["eval", "run"]),
    "generate": ((LanguageModel, "encode"), ["generate", "run", "--prompt", "import"]),
    "export": ((export, "_readme"), ["export", "run", "out"]),
    "export, all written": ((atomic, "sync_all"), ["export", "run", "out"]),
    "finetune": ((LanguageModel, "__init__"), ["finetune", "--from", "run", "--task", "letters"]),
    "collapse-report": ((LanguageModel, "encode"), ["collapse-report", "run"]),
    "report, all written": (
        (atomic, "sync_all"),
        ["collapse-report", "run", "--tokens", "64", "--no-ablation", "--format", "json,svg"],
    ),
    "prepare-data": ((prepare, "write_store"), ["prepare-data", "tiny.yaml", "--name", "new"]),
}


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_says_that_it_was_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, folder: Path, command: str
) -> None:
    moment, arguments = COMMANDS[command]
    if command == "finetune":
        arguments = [*arguments, "--data-dir", "tasks"]
    before = contents(Path())
    signalled(monkeypatch, *moment)
    stopped(capsys, *arguments)
    assert contents(Path()) == before
    left = [path for path in folder.rglob("*") if "partial" in path.name]
    assert left == []


def test_it_is_not_lost_where_something_catches_it(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    real = LanguageModel.__init__

    def catching(self: LanguageModel, *args: Any) -> None:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        real(self, *args)
        time.sleep(60)

    monkeypatch.setattr(LanguageModel, "__init__", catching)
    stopped(capsys, "eval", "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_waits_until_a_module_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path, number: int
) -> None:
    monkeypatch.delitem(sys.modules, "slowly", raising=False)
    (tmp_path / "slowly.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(0.01)\ndone = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = []

    def importing(name: str, launch: object) -> None:
        import slowly

        found.append(slowly.done)
        time.sleep(60)

    monkeypatch.setattr(device, "choose_device", importing)
    stopped(capsys, "eval", "run", number=number)
    assert found == [1]
