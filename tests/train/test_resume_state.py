"""What a resumed run needs: everything comes back, and anything else is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.checkpoint_state import TRAINING
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.resume_state import restore, training_tensors

Make = Callable[..., Trainer]


@pytest.fixture
def saved(trainer: Make) -> Path:
    """A checkpoint of step 2, between two train events."""
    made = trainer(train={"steps": 2, "log_every": 4, "probe_every": 0})
    made.train()
    return checkpoint.find(made.run, "last")


def test_all_tensors_come_back(trainer: Make, saved: Path) -> None:
    other = trainer("other", train={"seed": 7})
    torch.rand(5)
    state = restore(saved, other.objective, other.stepper.optimizer, other.stepper.window)
    assert state["step"] == 2
    found, expected = load_file(saved / TRAINING), None
    expected = training_tensors(other.objective, other.stepper.optimizer, other.stepper.window)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("damage", ["random state", "optimizer", "missing"])
def test_tensors_of_something_else_are_refused(trainer: Make, saved: Path, damage: str) -> None:
    folder = Path(shutil.copytree(saved, saved.parent / "step-0000009"))
    tensors = load_file(folder / TRAINING)
    moment = next(name for name in tensors if name.startswith("optimizer.exp_avg."))
    if damage == "random state":
        tensors["rng.cpu"] = torch.zeros(3, dtype=torch.uint8)
    elif damage == "optimizer":
        tensors[moment] = torch.zeros(3)
    else:
        del tensors[moment]
    state = checkpoint.read_state(saved)
    save_file(tensors, folder / TRAINING)
    state["sha256"][TRAINING] = checkpoint.sha256(folder / TRAINING)
    other = trainer("other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "read_state", lambda folder: state)
        with pytest.raises(UserError, match="damaged checkpoint: ") as caught:
            restore(folder, other.objective, other.stepper.optimizer, other.stepper.window)
    assert (caught.value.code, caught.value.where) == (EXIT_DATA, str(folder / TRAINING))
