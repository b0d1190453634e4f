"""A run that was killed or stopped, and resumed, equals one that was not, bit for bit."""

from __future__ import annotations

import os
import signal
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
from simsmoe_cli.run.event_log import EventLog
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.optim import NonFiniteGuard
from simsmoe_cli.train.signals import Stopped
from tests.forked import Ended, Forked
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


class Killed:
    """Kills the process it is called in with SIGKILL at a chosen moment: inside a step, or between
    the rename of a checkpoint and its event."""

    def __init__(self, moment: str, at: int):
        self.moment, self.at = moment, at

    def __call__(self) -> None:
        calls = 0

        def count(this: bool) -> None:
            nonlocal calls
            calls += this
            if this and calls == self.at:
                os.kill(os.getpid(), signal.SIGKILL)

        if self.moment == "step":
            watch = NonFiniteGuard.watch

            def watched(guard: NonFiniteGuard, *arguments: Any) -> None:
                count(True)
                watch(guard, *arguments)

            NonFiniteGuard.watch = watched  # type: ignore[method-assign]
        else:
            emit = EventLog.emit

            def emitted(log: EventLog, event: Any) -> None:
                count(event["kind"] == "checkpoint")
                emit(log, event)

            EventLog.emit = emitted  # type: ignore[method-assign]


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


def pretrain(data: Path, runs: Path, *arguments: str, killed: Killed | None = None) -> Ended:
    words = ["pretrain", "--data-dir", str(data), "--runs-dir", str(runs), *arguments]
    return Forked(words, runs / "printed", killed).ended()


@pytest.fixture(scope="module")
def reference(
    corpus_dir: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """The run that nothing interrupted."""
    runs = tmp_path_factory.mktemp("reference")
    done = pretrain(corpus_dir, runs, "--recipe", str(recipe_file), "--name", "whole")
    assert done.code == 0, done.err
    return RunDir(runs / "whole")


@pytest.mark.parametrize("killed", [Killed("step", 7), Killed("rename", 2)], ids=["step", "rename"])
def test_killed_and_resumed(
    killed: Killed, corpus_dir: Path, recipe_file: Path, tmp_path: Path, reference: RunDir
) -> None:
    start = "--recipe", str(recipe_file), "--name", "run"
    first = pretrain(corpus_dir, tmp_path, *start, killed=killed)
    assert first.code == -signal.SIGKILL
    second = pretrain(corpus_dir, tmp_path, *start, "--resume", "auto")
    assert second.code == 0, second.err
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
