"""Weights fit the model they are loaded into, or the error names what does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_model

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, UserError
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.moe.routers.stablemoe import StableMoERouter
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run import checkpoint, weights
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from tests.train.test_resume import assert_same_run
from tests.train.tiny import recipe


@pytest.fixture(scope="module")
def finished(store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with checkpoints of steps 4 and 8; not to be changed."""
    run = RunDir(tmp_path_factory.mktemp("runs") / "finished")
    Trainer(LanguageModelling(recipe(), store, torch.device("cpu")), run).train()
    run.recipe.write_text(dump_recipe(recipe()))
    return run


@pytest.fixture
def run(finished: RunDir, tmp_path: Path) -> RunDir:
    """A copy of the finished run."""
    shutil.copytree(finished.path, tmp_path / "copy")
    return RunDir(tmp_path / "copy")


def test_weights_of_another_model_are_named(run: RunDir) -> None:
    folder = checkpoint.find(run, "last")
    state = checkpoint.read_state(folder)
    wider = LanguageModel(recipe(moe={"hidden": 64}), state["vocab_size"])
    with pytest.raises(
        UserError, match=r"layers\.1\.moe\.experts\.w_in is 4 x 64 x 32 \(F32\) in the file"
    ) as caught:
        weights.load_weights(folder, state, wider)
    assert caught.value.code == EXIT_DATA
    deeper = LanguageModel(recipe(model={"repeats": 3}), state["vocab_size"])
    with pytest.raises(
        UserError, match=r"layers\.4\.attention\.key\.weight is missing in the file"
    ):
        weights.load_weights(folder, state, deeper)


def test_weights_replaced_while_they_are_read_are_missed(run: RunDir) -> None:
    """By a run in training; whoever evaluates it tries again."""
    state = checkpoint.read_state(run.best)
    next(run.best.glob("weights-*")).unlink()
    with pytest.raises(UserError, match=r"damaged checkpoint: the file is missing\.") as caught:
        weights.load_weights(run.best, state, LanguageModel(recipe(), state["vocab_size"]))
    assert caught.value.code == EXIT_DATA


def test_running_out_of_memory_is_not_taken_for_another_model(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*args: Any, **kwargs: Any) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    folder = checkpoint.find(run, "last")
    state = checkpoint.read_state(folder)
    monkeypatch.setattr("simsmoe_cli.run.tensor_files.TensorFiles.read", no_memory)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        weights.load_weights(folder, state, LanguageModel(recipe(), state["vocab_size"]))


def test_a_router_knows_the_stage_it_was_saved_in(tmp_path: Path) -> None:
    frozen, fresh = (LanguageModel(recipe(moe={"router": "stablemoe"}), 256) for _ in range(2))
    for layer in frozen.moe_layers:
        cast(StableMoERouter, layer.router).frozen.fill_(True)
    save_model(frozen, str(tmp_path / "x"))
    weights.fill(fresh, files := weights.opened([tmp_path / "x"]), files.found)
    assert all(cast(StableMoERouter, layer.router).loaded_frozen for layer in fresh.moe_layers)


def test_tied_embeddings_survive(trainer: Callable[..., Trainer]) -> None:
    tied: dict[str, Any] = {"model": {"tie_embeddings": True}}
    whole = trainer("whole", **tied)
    whole.train()
    folder = whole.run.checkpoints / "step-0000004"
    shutil.copytree(whole.run.path, whole.run.path.parent / "part")
    part = RunDir(whole.run.path.parent / "part")
    resumed = trainer("part", part.checkpoints / folder.name, **tied)
    assert resumed.model.output.weight is resumed.model.embedding.weight
    resumed.train()
    assert_same_run(part, whole.run, "warning")
