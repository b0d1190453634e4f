"""A loss or a weight that becomes non-finite: the run stops before it, and says what to do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_NON_FINITE, UserError
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.loop import Trainer
from tests.train.test_resume import assert_same_run
from tests.train.tiny import (
    Make,
    assert_equal,
    events,
    recipe,
    steps,
    weights,
)


def spoil(made: Trainer, monkeypatch: pytest.MonkeyPatch, step: int, part: int = 0) -> None:
    """The loss of one micro-batch of one step (from 1) is nan."""
    loss, calls = made.stepper.loss, [0]

    def spoiled(*args: Any) -> Any:
        total, memory, measured = loss(*args)
        calls[0] += 1
        if calls[0] - 1 == (step - 1) * made.settings.micro_batches + part:
            total = total * math.nan
        return total, memory, measured

    monkeypatch.setattr(made.stepper, "loss", spoiled)


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize(("bad", "log_every"), [(6, 1), (5, 4), (1, 8)])
def test_a_nan_stops_before_the_step(
    trainer: Make, monkeypatch: pytest.MonkeyPatch, bad: int, log_every: int, part: int
) -> None:
    train = {"schedule": "constant", "log_every": log_every, "micro_batches": 2}
    reference = trainer("reference", train=train)
    for _ in range(bad - 1):
        reference.step()
    made = trainer(train=train)
    spoil(made, monkeypatch, bad, part)
    with pytest.raises(UserError, match=f"became non-finite at step {bad}") as caught:
        made.train()
    assert caught.value.code == EXIT_NON_FINITE
    # Before the first step Adam has no moments; a step not taken leaves them 0.
    untouched = {name: torch.zeros_like(tensor) for name, tensor in weights(made).items()}
    assert_equal(weights(made), untouched | weights(reference))

    warning, finished = events(made.run)[-2:]
    assert warning["kind"] == "warning"
    assert warning["message"].endswith(f"at step {bad}")
    assert (finished["kind"], finished["status"]) == ("run_finished", "failed")
    assert f"at step {bad}" in finished["reason"]
    assert [e["step"] for e in events(made.run, "train")] == list(range(log_every, bad, log_every))
    hint = caught.value.hint
    if bad > 4:
        assert steps(made.run) == [4]
        assert "The last good checkpoint is step 4; continue from it with --resume auto" in hint
    else:
        assert steps(made.run) == []
        assert "No checkpoint was saved yet; start again with more train.warmup_steps" in hint


def test_a_run_goes_on_after_a_nan(trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trainer("whole")
    whole.train()
    made = trainer()
    spoil(made, monkeypatch, 7)
    with pytest.raises(UserError):
        made.train()
    resumed = trainer(resume_from=checkpoint.find(made.run, "last"))
    resumed.train()
    assert_same_run(resumed.run, whole.run)


def test_weights_that_overflow_are_noticed(trainer: Make) -> None:
    made = trainer()
    made.step()
    made.model.output.weight.data[0, 0] = math.inf
    with pytest.raises(UserError, match="non-finite at step 2") as caught:
        made.train()
    assert caught.value.code == EXIT_NON_FINITE


def test_a_step_that_ruins_the_weights_is_not_saved(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of step 8 was still fine; what it made of the weights is not."""
    made = trainer(train={"validate_every": 4})
    step = made.stepper.optimizer.step

    def ruinous() -> None:
        step()
        if made.steps_done == 7:
            made.model.output.weight.data[:] = math.nan

    monkeypatch.setattr(made.stepper.optimizer, "step", ruinous)
    with pytest.raises(UserError, match="validation loss became non-finite at step 8") as caught:
        made.train()
    assert caught.value.code == EXIT_NON_FINITE
    assert steps(made.run) == [4]
    assert checkpoint.read_state(made.run.best)["step"] == 4


def test_divergence_on_the_command_line_and_what_its_message_advises(
    corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(dump_recipe(recipe(train={"schedule": "constant", "checkpoint_every": 1})))
    command = ["pretrain", "--recipe", str(file), "--name", "run"]
    command += ["--data-dir", str(corpus_dir), "--runs-dir", str(tmp_path)]
    assert main.run([*command, "--set", "train.steps=1"]) == 0
    resume = [*command, "--resume", "auto"]
    assert main.run([*resume, "--set", "train.lr=1e9"]) == EXIT_NON_FINITE
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "became non-finite at step" in printed
    assert "--resume auto and a lower train.lr (now 1e+09) or train.clip_norm=1.0" in printed
    # The advice is one that can be followed.
    first = str(tmp_path / "run/checkpoints/step-0000001")
    advice = ["--set", "train.lr=1e-4", "--set", "train.clip_norm=1.0"]
    assert main.run(["pretrain", "--data-dir", str(corpus_dir), "--resume", first, *advice]) == 0
    run = RunDir(tmp_path / "run")
    assert events(run)[-1]["status"] == "finished"
    assert events(run, "train")[-1]["lr"] == 1e-4
