"""The callback in a real Trainer: attached, logged, kept in checkpoints, and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import MixtralForCausalLM, Trainer, TrainerCallback, TrainingArguments

from simsmoe_cli.any_moe.trainer_callback import SimSMoECallback
from simsmoe_cli.cli.main import run as simsmoe
from simsmoe_cli.errors import UserError
from simsmoe_cli.run.event_log import read_events
from tests.any_moe.by_hand import VOCABULARY, made

FEW = {"preset": "calibrated", "tokens": 32, "min_tokens": 8}


class Texts(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(1, VOCABULARY - 5, (24,), generator=generator)
        return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}


class Logger(TrainerCallback):
    """Stands for W&B and others, which the Trainer puts before callbacks of users."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logged.append(dict(logs))


class Stop(TrainerCallback):
    """Ends a training early, as a kill after a checkpoint does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def trainer(
    folder: Path,
    callback: SimSMoECallback,
    logger: Logger,
    stop: int,
    model: nn.Module | None = None,
    **options: Any,
) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder / "out"),
        max_steps=8,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=2,
        save_steps=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
        **options,
    )
    return Trainer(
        made("gpt_oss") if model is None else model,
        arguments,
        train_dataset=Texts(),
        callbacks=[logger, callback, Stop(stop)],
    )


def test_a_training_is_logged_watched_and_resumed(tmp_path: Path) -> None:
    weights = []
    for name, stops in {"whole": [8], "halves": [4, 8]}.items():
        for stop in stops:
            logger = Logger()
            callback = SimSMoECallback(FEW, run=tmp_path / name / "run", probe_every=4)
            made_trainer = trainer(tmp_path / name, callback, logger, stop)
            callback.log_with(made_trainer)
            made_trainer.train(resume_from_checkpoint=True if stop != stops[0] else None)
        assert any("simsmoe/cka_mean" in logs for logs in logger.logged)
        assert all(len(logs) < 30 for logs in logger.logged)
        weights.append([part.clone() for part in made_trainer.model.parameters()])
        events = list(read_events(tmp_path / name / "run" / "events.jsonl"))
        trained = [event for event in events if event["kind"] == "train"]
        assert [event["step"] for event in trained] == [2, 4, 6, 8]
        history = [entry["loss"] for entry in made_trainer.state.log_history if "loss" in entry]
        losses = [event["loss_nats"] for event in trained]  # each of its own steps, in fp32
        assert losses == pytest.approx(history, rel=1e-6)
    for whole, halves in zip(*weights, strict=True):
        torch.testing.assert_close(halves, whole, rtol=0, atol=0)


@pytest.mark.parametrize("accumulated", [1, 4])
def test_the_loss_is_scaled_as_the_trainer_scales_its_own(accumulated: int, tmp_path: Path) -> None:
    callback = SimSMoECallback(FEW)
    options = {"gradient_accumulation_steps": accumulated}
    trainer(tmp_path, callback, Logger(), 1, **options).train()
    assert callback.handle is not None
    assert callback.handle.loss_scale == 1 / accumulated
    assert callback.handle.steps == 1


def test_a_checkpoint_elsewhere_must_be_named_twice(tmp_path: Path) -> None:
    """The Trainer says no callback where it reads its checkpoint from."""
    trainer(tmp_path / "first", SimSMoECallback(FEW), Logger(), 4).train()
    saved = str(tmp_path / "first/out/checkpoint-4")
    moved = trainer(tmp_path / "second", SimSMoECallback(FEW), Logger(), 8)
    with pytest.raises(UserError, match="resume_from_checkpoint=FOLDER"):
        moved.train(resume_from_checkpoint=saved)
    callback = SimSMoECallback(FEW)
    named = trainer(tmp_path / "second", callback, Logger(), 6, resume_from_checkpoint=saved)
    named.train(resume_from_checkpoint=saved)
    assert callback.handle is not None
    assert callback.handle.steps == 6


def test_several_gpus_in_one_process_are_refused(tmp_path: Path) -> None:
    made_trainer = trainer(tmp_path, SimSMoECallback(FEW), Logger(), 1)
    made_trainer.args._n_gpu = 2
    with pytest.raises(UserError, match=r"2 GPUs of one process.*torchrun"):
        SimSMoECallback(FEW).on_train_begin(
            made_trainer.args, made_trainer.state, None, model=made_trainer.model
        )


def test_experts_that_the_trainer_does_not_read_are_not_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Trainer of transformers 5.24 does not read back the experts of a Mixtral it saved."""
    run, saved = tmp_path / "run", tmp_path / "out" / "checkpoint-4"

    def train(model: nn.Module, stop: int, resume: bool) -> Trainer:
        callback = SimSMoECallback(FEW, run=run)
        made_trainer = trainer(tmp_path, callback, Logger(), stop, model)
        made_trainer.train(resume_from_checkpoint=resume)
        return made_trainer

    train(made("mixtral"), 4, False)
    before = (run / "events.jsonl").read_bytes()
    with pytest.raises(UserError, match="did not read the experts"):
        train(made("mixtral"), 8, True)
    assert (run / "events.jsonl").read_bytes() == before
    done = train(MixtralForCausalLM.from_pretrained(saved), 8, True)
    assert done.state.global_step == 8
    started = [event for event in read_events(run / "events.jsonl") if "model" in event]
    assert [event["step"] for event in started] == [0]

    # What needs weights says where they are.
    assert simsmoe(["eval", str(run)]) == 3
    assert f"in {tmp_path / 'out' / 'checkpoint-8'}" in capsys.readouterr().err
