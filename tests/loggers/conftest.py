"""A training that is logged, stopped and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from simsmoe_cli.cli import main
from simsmoe_cli.recipe.load import dump_recipe
from simsmoe_cli.run.folder import RunDir
from tests.train.tiny import recipe

Logged = Callable[[str], RunDir]


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus_dir: Path) -> Logged:
    """Trains 8 steps with a tracker, goes on to 12 from step 4, and gives the run."""
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(corpus_dir)
    Path("tiny.yaml").write_text(dump_recipe(recipe(similarity={"preset": "calibrated"})))

    def train(name: str) -> RunDir:
        command = ["pretrain", "--log", name]
        assert main.run([*command, "--recipe", "tiny.yaml", "--name", "mine"]) == 0
        older = "runs/mine/checkpoints/step-0000004"
        assert main.run([*command, "--resume", older, "--set", "train.steps=12"]) == 0
        return RunDir(Path("runs/mine"))

    return train
