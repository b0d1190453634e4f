"""Going on without a recipe.yaml that can be used, and damage that training meets on its way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from simsmoe_cli.cli import main
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError
from simsmoe_cli.run.checkpoint import list_checkpoints
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from tests.train.tiny import recipe

Capture = pytest.CaptureFixture[str]
OLD = Path(__file__).parents[1] / "runs_of_schema_1"
GO_ON = {
    "pretrain": ["pretrain", "--resume", "base", "--set", "train.steps=9"],
    "by name": ["pretrain", "--resume", "auto", "--name", "base", "--set", "train.steps=9"],
    "finetune": ["finetune", "--resume", "tuned", "--set", "finetune.epochs=3"],
}


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("how", GO_ON)
@pytest.mark.parametrize("content", ["model: [\n", "", "model: {width: seven}\n", "mdel: {}\n"])
def test_a_damaged_recipe_says_how_to_go_on(how: str, content: str, capsys: Capture) -> None:
    name = "tuned" if how == "finetune" else "base"
    recipe = Path("runs", name, "recipe.yaml")
    recipe.write_text(content)
    assert main.run(GO_ON[how]) == EXIT_USAGE
    said = capsys.readouterr().err
    assert f"runs/{name}/recipe.yaml" in said
    assert "Mend the file or move it away: the checkpoints hold the recipe" in said
    # What is advised works, and so does what is said to need no recipe.yaml.
    assert main.run(["eval", name]) == 0
    recipe.unlink()
    assert main.run(GO_ON[how]) == 0
    assert recipe.is_file()


def test_an_override_that_is_wrong_is_not_taken_for_a_damaged_recipe(capsys: Capture) -> None:
    assert main.run(["pretrain", "--resume", "base", "--set", "train.stps=9"]) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "train.stps" in said
    assert "move it away" not in said


@pytest.mark.parametrize("split", ["train", "valid"])
def test_training_saves_before_it_stops_at_damaged_data(
    split: str, corpus_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(corpus_dir / "sources", tmp_path / "sources")
    file = tmp_path / "sources" / f"{split}.bin"
    every = {"validate_every": 3, "checkpoint_every": 100, "probe_every": 0}
    objective = LanguageModelling(
        recipe(train={**every, "steps": 9}),
        TokenStore.open(tmp_path / "sources"),
        torch.device("cpu"),
    )
    made = Trainer(objective, RunDir(tmp_path / "run"))
    made.on_step = lambda step: os.truncate(file, 1000) if step == 2 else None
    with pytest.raises(UserError, match=f"{split}.bin has 1,000 bytes") as caught:
        made.train()
    assert caught.value.code == EXIT_DATA
    (step,) = [step for step, _ in list_checkpoints(made.run)]
    # A batch of train is read while the step before it computes.
    assert step == 3 if split == "valid" else step in (2, 3, 4)
