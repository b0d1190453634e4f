"""Checkpoints are written beside the training, and hold what was there when they were taken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.run import checkpoint, checkpoint_state, save_checkpoint
from simsmoe_cli.run.background_writer import Snapshot
from simsmoe_cli.train.loop import Trainer
from tests.train.tiny import recipe

Make = Callable[..., Trainer]


def test_training_goes_on_while_a_checkpoint_is_written(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of step 2 begins when step 5 was done, and still holds step 2."""
    made = trainer(train={"steps": 6, "checkpoint_every": 2, "validate_every": 0, "keep_last": 9})
    went_on, weights, real = threading.Event(), {}, save_checkpoint.save

    def slow(run: Any, step: int, *args: Any) -> Path:
        if step == 2:
            assert went_on.wait(60)
        return real(run, step, *args)

    def watch(step: int) -> None:
        if step == 2:
            weights.update({n: p.clone() for n, p in made.model.state_dict().items()})
        if step == 5:
            went_on.set()

    monkeypatch.setattr(save_checkpoint, "save", slow)
    made.on_step = watch
    made.train()
    saved = load_file(made.run.checkpoints / "step-0000002" / checkpoint_state.MODEL)
    for name, tensor in saved.items():
        assert torch.equal(tensor, weights[name]), name
    assert [step for step, _ in checkpoint.list_checkpoints(made.run)] == [2, 4, 6]


def test_tied_weights_are_copied_once(tmp_path: Path) -> None:
    model = LanguageModel(recipe(model={"tie_embeddings": True}), 11)
    copy = Snapshot(model).state_dict()
    assert copy["output.weight"].data_ptr() == copy["embedding.weight"].data_ptr()
    assert copy["output.weight"].data_ptr() != model.output.weight.data_ptr()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, copy[name])
