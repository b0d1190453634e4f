"""A run that was killed or stopped, and resumed, equals one that was not, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from simsmoe_cli.errors import EXIT_SIGTERM
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.checkpoint_state import MODEL, TRAINING
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.signals import Stopped
from tests.train.tiny import events, recipe, without_times

PAPER_MODEL = {
    "attention": "relative",
    "span": 48,
    "norm": "layernorm",
    "norm_position": "post",
    "moe_norm": "double",
    "activation": "relu",
    "bias": True,
    "dropout": 0.1,
}
# Everything a checkpoint must carry: memory, dropout's random numbers, sampled pairs, counters,
# a learning rate that moves, an open log window (5 is no divisor of 4), two micro-batches.
SETTINGS: dict[str, dict[str, Any]] = {
    "model": PAPER_MODEL,
    "similarity": {"preset": "published", "check_every": 0.3, "threshold": 0.0, "min_tokens": 4},
    "train": {
        "steps": 12,
        "micro_batches": 2,
        "schedule": "cosine",
        "warmup_steps": 3,
        "clip_norm": 1.0,
        "log_every": 5,
        "checkpoint_every": 4,
        "validate_every": 3,
        "keep_last": 3,
        "precision": "fp32",  # auto is timed, so processes on a busy machine may choose differently
    },
}

# Runs `simsmoe ARGUMENTS` and kills this process with SIGKILL at a chosen moment.
KILLED = """
import os, signal, sys
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.event_log import EventLog
from simsmoe_cli.train.optim import NonFiniteGuard

moment, at = sys.argv[1], int(sys.argv[2])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "step":
    watch = NonFiniteGuard.watch
    calls = 0
    def patched(self, *args):
        global calls
        calls += 1
        if calls == at:
            die()
        watch(self, *args)
    NonFiniteGuard.watch = patched
elif moment == "checkpoint":
    save_file = checkpoint.save_file
    calls = 0
    def patched(tensors, path):
        global calls
        calls += 1
        save_file(tensors, path)
        if calls == at:
            os.truncate(path, os.path.getsize(path) // 2)
            die()
    checkpoint.save_file = patched
elif moment == "rename":
    emit = EventLog.emit
    calls = 0
    def patched(self, event):
        global calls
        calls += event["kind"] == "checkpoint"
        if calls == at:
            die()
        emit(self, event)
    EventLog.emit = patched

sys.argv = ["simsmoe", *sys.argv[3:]]
from simsmoe_cli.cli.main import main
main()
"""


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    """Everything the last checkpoint holds."""
    folder = checkpoint.find(run, "last")
    return load_file(folder / MODEL) | load_file(folder / TRAINING)


def assert_same_run(run: RunDir, reference: RunDir, *but: str) -> None:
    """Equal weights, optimizer, memory, random states and best weights; equal events, `but` some
    kinds, in all but their times."""
    ours, theirs = weights(run), weights(reference)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    best = [next(r.best.glob("*.safetensors")) for r in (run, reference)]
    assert best[0].name == best[1].name
    assert best[0].read_bytes() == best[1].read_bytes()
    left, right = (
        [without_times(event) | {"name": ""} for event in events(r) if event["kind"] not in but]
        for r in (run, reference)
    )
    assert left == right
    if "similarity" not in but:
        files = [
            {path.name: path.read_bytes() for path in r.probes.glob("*")} for r in (run, reference)
        ]
        assert files[0] == files[1]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(dump_recipe(recipe(**SETTINGS)))
    return path


def pretrain(
    data: Path, runs: Path, *arguments: str, killed: tuple[str, int] | None = None
) -> subprocess.CompletedProcess[str]:
    command = ["pretrain", "--data-dir", str(data), "--runs-dir", str(runs), *arguments]
    moment, at = killed or ("never", 0)
    return subprocess.run(
        [sys.executable, "-c", KILLED, moment, str(at), *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def reference(
    corpus_dir: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """The run that nothing interrupted."""
    runs = tmp_path_factory.mktemp("reference")
    done = pretrain(corpus_dir, runs, "--recipe", str(recipe_file), "--name", "whole")
    assert done.returncode == 0, done.stderr
    return RunDir(runs / "whole")


@pytest.mark.parametrize("killed", [("step", 7), ("rename", 2)], ids=str)
def test_killed_and_resumed(
    killed: tuple[str, int], corpus_dir: Path, recipe_file: Path, tmp_path: Path, reference: RunDir
) -> None:
    start = "--recipe", str(recipe_file), "--name", "run"
    first = pretrain(corpus_dir, tmp_path, *start, killed=killed)
    assert first.returncode == -signal.SIGKILL
    second = pretrain(corpus_dir, tmp_path, *start, "--resume", "auto")
    assert second.returncode == 0, second.stderr
    run = RunDir(tmp_path / "run")
    assert_same_run(run, reference)
    leftovers = [path.name for path in run.checkpoints.iterdir() if path.name.startswith(".")]
    assert leftovers == []


def test_stopped_by_a_signal_and_resumed(trainer: Callable[..., Trainer]) -> None:
    whole = trainer("whole", **SETTINGS)
    whole.train()
    stopped = trainer("stopped", **SETTINGS)
    stopped.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 7 else None
    with pytest.raises(Stopped) as stop:
        stopped.train()
    assert (stop.value.code, stop.value.step) == (EXIT_SIGTERM, 7)
    assert events(stopped.run)[-1]["status"] == "stopped"
    assert [step for step, _ in checkpoint.list_checkpoints(stopped.run)][-1] == 7
    resumed = trainer("stopped", resume_from=checkpoint.find(stopped.run, "last"), **SETTINGS)
    resumed.train()
    # Stopping saved once more than the schedule says.
    assert_same_run(resumed.run, whole.run, "checkpoint")
