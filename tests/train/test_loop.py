"""The training loop: what it computes and reports, how it stops, and what it does about nan."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_NON_FINITE, EXIT_SIGINT, EXIT_SIGTERM, UserError
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run import checkpoint, probes
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.weights import optimizer_tensors
from simsmoe_cli.train.evaluate import evaluate_split
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives import language_modelling
from simsmoe_cli.train.optim import learning_rate
from simsmoe_cli.train.signals import Stopped
from tests.train.test_resume import PAPER_MODEL, assert_same_run
from tests.train.tiny import events, recipe, without_times

Make = Callable[..., Trainer]

COMMON = {"schema", "kind", "step", "time"}
# What run/events.py documents.
FIELDS = {
    "run_started": {
        "name", "recipe", "parameters", "tokens_per_step", "total_steps", "unit", "device",
        "precision",
    },
    "train": {
        "loss_nats", "bpc", "losses", "lr", "grad_norm", "tokens", "similarity", "tokens_per_s",
        "step_ms",
    },
    "eval": {
        "split",
        "loss_nats",
        "bpc",
        "bits_per_byte",
        "perplexity",
        "word_perplexity",
        "tokens",
        "best",
        "tokens_per_s",
    },
    "router": {"layers"},
    "similarity": {"tokens", "measure", "layers", "matrices"},
    "checkpoint": {"path"},
    "run_finished": {"status", "reason", "test_bpc", "test_loss_nats", "best_step"},
}  # fmt: skip
LAYER_FIELDS = {
    "router": {"layer", "load", "load_cv", "dead", "entropy_nats", "entropy_of_mean_nats"},
    "similarity": {"layer", "mean", "highest", "pair"},
}
SIMILARITY = {"preset": "calibrated", "min_tokens": 4}


def steps(run: RunDir) -> list[int]:
    return [step for step, _ in checkpoint.list_checkpoints(run)]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    tensors = dict(trainer.model.named_parameters())
    tensors |= optimizer_tensors(trainer.model, trainer.stepper.optimizer)
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


# What a run reports


def test_a_run_writes_the_documented_events(trainer: Make) -> None:
    made = trainer(similarity=SIMILARITY, moe={"z_weight": 1e-3})
    result = made.train()
    written = events(made.run)
    for event in written:
        assert set(event) == COMMON | FIELDS[event["kind"]], event["kind"]
        for layer in event.get("layers", []):
            assert set(layer) == LAYER_FIELDS[event["kind"]]
    assert [(event["kind"], event["step"]) for event in written] == [
        ("run_started", 0), ("router", 0), ("similarity", 0),
        ("train", 2),
        ("train", 4), ("eval", 4), ("router", 4), ("similarity", 4), ("checkpoint", 4),
        ("train", 6),
        ("train", 8), ("eval", 8), ("router", 8), ("similarity", 8), ("checkpoint", 8),
        ("eval", 8), ("run_finished", 8),
    ]  # fmt: skip
    started, finished = written[0], written[-1]
    assert (started["name"], started["total_steps"]) == ("run", 8)
    assert started["recipe"] == made.recipe.model_dump(mode="json")
    assert started["parameters"] == sum(p.numel() for p in made.model.parameters())
    assert (started["tokens_per_step"], started["unit"]) == (4 * 32, "byte")
    assert (started["device"], started["precision"]) == ("cpu", "fp32")
    assert finished["status"] == "finished"
    assert finished["test_bpc"] == result.bpc == written[-2]["bpc"]
    assert finished["test_loss_nats"] == result.loss_nats
    validated = {e["step"]: e["loss_nats"] for e in written if e.get("split") == "valid"}
    assert finished["best_step"] == min(validated, key=lambda step: validated[step])
    for event in (e for e in written if e["kind"] == "train"):
        assert set(event["losses"]) == {"balance", "z", "similarity"}
        assert event["lr"] == learning_rate(event["step"] - 1, made.settings)
        assert event["tokens"] == event["step"] * 4 * 32
        assert event["bpc"] == pytest.approx(event["loss_nats"] / math.log(2))
        assert 0 < event["similarity"]["pairs_due"] <= 2 * 4  # two layers, at most four pairs each
    for event in (e for e in written if e["kind"] == "checkpoint"):
        assert (made.run.path / event["path"]).is_dir()
    for event in (e for e in written if e["kind"] == "similarity"):
        matrices = probes.read(made.run.path, event["matrices"])
        for layer, cka in zip(event["layers"], matrices.cka_LNN, strict=True):
            assert layer["highest"] == cka[tuple(layer["pair"])]
            assert layer["mean"] == pytest.approx(np.nanmean(cka[np.triu_indices(len(cka), 1)]))


def test_train_events_hold_means_over_their_steps(trainer: Make) -> None:
    fine = trainer("fine", similarity=SIMILARITY, train={"log_every": 1})
    fine.train()
    coarse = trainer("coarse", similarity=SIMILARITY, train={"log_every": 4})
    coarse.train()
    each = events(fine.run, "train")
    for number, event in enumerate(events(coarse.run, "train")):
        part = each[4 * number : 4 * number + 4]
        assert event["step"] == part[-1]["step"]
        for value in (
            lambda e: e["loss_nats"],
            lambda e: e["losses"]["balance"],
            lambda e: e["losses"]["similarity"],
            lambda e: e["grad_norm"],
            lambda e: e["similarity"]["pairs_due"],
        ):
            assert value(event) == pytest.approx(sum(value(e) for e in part) / 4, rel=1e-5)
        due = sum(e["similarity"]["pairs_due"] for e in part)
        total = sum(e["similarity"]["mean"] * e["similarity"]["pairs_due"] for e in part)
        assert event["similarity"]["mean"] == pytest.approx(total / due, rel=1e-4)


def test_without_similarity_learning_nothing_is_said_of_it(trainer: Make) -> None:
    made = trainer()
    made.train()
    for event in events(made.run, "train"):
        assert "similarity" not in event
        assert set(event["losses"]) == {"balance"}


def test_nothing_happens_that_is_set_to_never_but_at_the_end(trainer: Make) -> None:
    never = {"validate_every": 0, "checkpoint_every": 0, "probe_every": 0, "log_every": 5}
    made = trainer(train=never)
    made.train()
    assert [(event["kind"], event["step"]) for event in events(made.run)] == [
        ("run_started", 0), ("train", 5), ("train", 8), ("eval", 8), ("checkpoint", 8),
        ("eval", 8), ("run_finished", 8),
    ]  # fmt: skip


# What a run computes


def test_micro_batches_add_up_to_the_batch(trainer: Make) -> None:
    """The balance loss, which is not a sum over tokens, left out."""
    parts = []
    for number in (1, 2, 4):
        made = trainer(
            f"run-{number}",
            model=PAPER_MODEL | {"dropout": 0.0},
            moe={"balance_weight": 0.0},
            train={"micro_batches": number, "eps": 1e-3},
        )
        for _ in range(3):
            made.step()
        parts.append(weights(made))
    for name, whole in parts[0].items():
        for part in parts[1:]:
            torch.testing.assert_close(part[name], whole, rtol=1e-3, atol=1e-5)


def test_gradients_are_clipped_and_their_norm_reported(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(train={"clip_norm": 0.05, "log_every": 1})
    norms: list[float] = []
    step = made.stepper.optimizer.step

    def watched() -> None:
        grads = [p.grad for p in made.model.parameters() if p.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(grads).item())
        step()

    monkeypatch.setattr(made.stepper.optimizer, "step", watched)
    made.train()
    assert norms == pytest.approx([0.05] * 8, rel=1e-4)
    assert all(event["grad_norm"] > 0.1 for event in events(made.run, "train"))


def test_memory_is_carried_and_forgotten_where_the_text_starts_over(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(model=PAPER_MODEL)
    monkeypatch.setattr(made.objective.streams, "blocks", 3)
    empty: list[bool] = []
    loss = made.stepper.loss

    def watched(x: Any, y: Any, memory: list[torch.Tensor], *rest: Any) -> Any:
        empty.append(all(not tensor.any() for tensor in memory))
        return loss(x, y, memory, *rest)

    monkeypatch.setattr(made.stepper, "loss", watched)
    for _ in range(7):
        made.step()
    assert empty == [True, False, False, True, False, False, True]


def test_seeds_decide_everything(trainer: Make) -> None:
    model: dict[str, Any] = {"model": {"dropout": 0.1}, "similarity": SIMILARITY}
    runs = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        made = trainer(name, **model, train={"seed": seed})
        made.train()
        runs.append((weights(made), [without_times(e) for e in events(made.run, "train")]))
    assert_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert runs[0][1] != runs[2][1]


def test_a_model_learns(trainer: Make) -> None:
    made = trainer(train={"steps": 60, "lr": 1e-2, "validate_every": 20, "probe_every": 0})
    result = made.train()
    assert result.bpc < 0.8 * math.log2(made.model.vocab_size)
    losses = [event["loss_nats"] for event in events(made.run, "eval")]
    assert losses == sorted(losses, reverse=True)


# Non-finite numbers


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
        assert "The last good checkpoint is step 4; go on from it with --resume auto" in hint
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


# Signals


def interrupt(made: Trainer, at: int, *numbers: signal.Signals) -> None:
    """Send this process signals after a step."""

    def send(step: int) -> None:
        if step == at:
            for number in numbers:
                os.kill(os.getpid(), number)

    made.on_step = send


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, EXIT_SIGINT), (signal.SIGTERM, EXIT_SIGTERM)]
)
@pytest.mark.parametrize("at", [3, 4])
def test_a_signal_saves_and_leaves(
    trainer: Make, number: signal.Signals, code: int, at: int
) -> None:
    """Also at a step that saves anyway: it saves once."""
    before = signal.getsignal(number)
    made = trainer()
    interrupt(made, at, number)
    with pytest.raises(Stopped) as stop:
        made.train()
    assert (stop.value.code, stop.value.step) == (code, at)
    assert steps(made.run) == [at]
    saved, finished = events(made.run)[-2:]
    assert (saved["kind"], saved["step"]) == ("checkpoint", at)
    assert [e["step"] for e in events(made.run, "checkpoint")] == [at]
    assert (finished["status"], finished["reason"]) == ("stopped", number.name)
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_leaves_at_once(trainer: Make) -> None:
    made = trainer()
    interrupt(made, 3, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    assert steps(made.run) == []
    finished = events(made.run)[-1]
    assert (finished["status"], finished["reason"]) == ("stopped", "interrupted twice, not saved")


def test_a_second_sigterm_does_not_cut_the_saving_short(trainer: Make) -> None:
    made = trainer()
    interrupt(made, 3, signal.SIGTERM, signal.SIGTERM)
    with pytest.raises(Stopped) as stop:
        made.train()
    assert stop.value.code == EXIT_SIGTERM
    assert steps(made.run) == [3]


@pytest.mark.parametrize("moment", ["last step", "final evaluation"])
def test_stopped_when_all_steps_are_done(
    trainer: Make, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The final evaluation of a large split takes long: it is left out, and made up for."""
    whole = trainer("whole")
    whole.train()
    made = trainer()
    if moment == "last step":
        interrupt(made, 8, signal.SIGTERM)
    else:
        evaluate = language_modelling.evaluate_split

        def interrupted(*args: Any, **kwargs: Any) -> Any:
            if (
                made.steps_done == 8
                and kwargs["max_blocks"] == made.objective.recipe.eval.final_blocks
            ):
                os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(*args, **kwargs)

        monkeypatch.setattr(language_modelling, "evaluate_split", interrupted)
        made.objective.recipe = recipe(eval={"final_blocks": 3})
    with pytest.raises(Stopped):
        made.train()
    assert "test" not in {event.get("split") for event in events(made.run)}
    assert events(made.run)[-1]["status"] == "stopped"
    monkeypatch.undo()
    resumed = trainer(resume_from=checkpoint.find(made.run, "last"))
    resumed.train()
    assert events(resumed.run)[-1] | {"time": 0} == events(whole.run)[-1] | {"time": 0}


@pytest.mark.parametrize("leaving", [SystemExit(1), BrokenPipeError(32, "Broken pipe")])
def test_a_reader_that_leaves_does_not_hide_how_the_run_ended(
    trainer: Make, leaving: BaseException
) -> None:
    """Rich raises SystemExit where the output is closed, print a BrokenPipeError."""

    def reader(event: dict[str, Any]) -> None:
        if event["step"] >= 6:
            raise leaving

    made = trainer()
    made.log._subscriber = reader
    with pytest.raises(type(leaving)):
        made.train()
    last = events(made.run)[-1]
    assert (last["kind"], last["status"]) == ("run_finished", "failed")
    assert steps(made.run) == [4]


# Resuming otherwise than from where a run was cut


def test_an_older_checkpoint_starts_the_run_over_from_there(trainer: Make) -> None:
    train = {"checkpoint_every": 2, "keep_last": 9, "schedule": "constant"}
    made = trainer(train=train)
    made.train()
    assert steps(made.run) == [2, 4, 6, 8]
    older = made.run.checkpoints / "step-0000004"
    shorter = trainer(resume_from=older, train=train | {"steps": 6, "lr": 1e-5})
    shorter.train()
    # What is there is of the new course alone, and is what --resume auto goes on from.
    assert steps(made.run) == [2, 4, 6]
    assert events(made.run)[-1]["step"] == 6
    assert checkpoint.read_state(checkpoint.find(made.run, "last"))["recipe"]["train"]["lr"] == 1e-5
    assert "later checkpoints were deleted: 6, 8" in {
        event["message"] for event in events(made.run, "warning")
    }


def test_a_run_resumed_with_other_settings_says_so(trainer: Make) -> None:
    made = trainer()
    made.train()
    longer = trainer(resume_from=checkpoint.find(made.run, "last"), train={"steps": 12})
    longer.train()
    first, second = events(made.run, "run_started")
    assert (first["step"], first["total_steps"]) == (0, 8)
    assert (second["step"], second["total_steps"]) == (8, 12)
    trained = [event["step"] for event in events(made.run, "train")]
    assert trained == [2, 4, 6, 8, 10, 12]


def test_another_precision_is_said(trainer: Make) -> None:
    made = trainer(train={"precision": "bf16"})
    interrupt(made, 3, signal.SIGTERM)
    with pytest.raises(Stopped):
        made.train()
    resumed = trainer(resume_from=checkpoint.find(made.run, "last"))
    resumed.train()
    messages = [event["message"] for event in events(made.run, "warning")]
    assert messages == ["computing in fp32; so far it was bf16"]


def test_lost_events_do_not_keep_a_run_from_going_on(trainer: Make) -> None:
    made = trainer()
    interrupt(made, 5, signal.SIGTERM)
    with pytest.raises(Stopped):
        made.train()
    os.truncate(made.run.events, 1000)
    resumed = trainer(resume_from=checkpoint.find(made.run, "last"))
    resumed.train()
    lines = made.run.events.read_bytes().splitlines()
    assert [json.loads(line)["kind"] for line in lines[-2:]] == ["eval", "run_finished"]
    assert [e["step"] for e in events(made.run, "train")] == [6, 8]


def test_lost_best_weights_are_found_anew(trainer: Make) -> None:
    made = trainer()
    interrupt(made, 5, signal.SIGTERM)
    with pytest.raises(Stopped):
        made.train()
    for path in made.run.best.iterdir():
        path.unlink()
    resumed = trainer(resume_from=checkpoint.find(made.run, "last"), train={"lr": 1e-12})
    resumed.train()
    assert events(made.run)[-1]["best_step"] == 8


def test_the_summary_routes_as_at_the_step_of_the_best_weights(
    trainer: Callable[..., Trainer],
) -> None:
    """A router that changes with the step must be evaluated as `simsmoe eval` would."""
    run = trainer(
        moe={"router": "smoe-dropout"},
        smoe_dropout={"k_start": 1, "k_end": 4},
        train={"validate_every": 4},
    )

    def nothing_is_better_than_step_4(step: int) -> None:
        if step == 4:
            run.best_loss = -1.0

    run.on_step = nothing_is_better_than_step_4
    summary = run.train()
    context = StepContext(step=4, total_steps=8)
    expected = evaluate_split(
        run.model,
        run.objective.store.split("test"),
        block=32,
        streams=4,
        max_blocks=2,
        context=context,
    )
    assert summary.total_nats == expected.total_nats
