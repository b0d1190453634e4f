"""Trainers of the tiny recipe, and what they fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.classify import TaskEvaluation
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from tests.train.test_resume import PAPER_MODEL
from tests.train.tiny import recipe
from tests.train.transfer import objective_of, planned, prepare, pretrain


@pytest.fixture
def trainer(store: TokenStore, tmp_path: Path) -> Callable[..., Trainer]:
    """Makes trainers of the tiny recipe with changes, in a run folder each."""

    def make(name: str = "run", resume_from: Path | None = None, **changes: Any) -> Trainer:
        objective = LanguageModelling(recipe(**changes), store, torch.device("cpu"))
        return Trainer(objective, RunDir(tmp_path / name), resume_from=resume_from)

    return make


@pytest.fixture(scope="session")
def data_dir(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpora and the task "letters"."""
    folder = tmp_path_factory.mktemp("transfer")
    for name in ("sources", "words"):
        (folder / name).symlink_to(corpus_dir / name)
    prepare(folder, "letters")
    return folder


@pytest.fixture(scope="session")
def base(data_dir: Path) -> RunDir:
    """A pre-trained run of the paper's attention."""
    model = PAPER_MODEL | {"dropout": 0.0}
    return pretrain(data_dir, RunDir(data_dir / "runs/base"), model=model)


@pytest.fixture
def finetune(
    base: RunDir, data_dir: Path, tmp_path: Path
) -> Callable[..., Trainer[TaskEvaluation]]:
    """Makes trainers that fine-tune on the letters, in a run folder each."""

    def make(
        *overrides: str, name: str = "run", start: RunDir = base, resume_from: Path | None = None
    ) -> Trainer[TaskEvaluation]:
        objective = objective_of(planned(start, data_dir, *overrides))
        return Trainer(objective, RunDir(tmp_path / name), resume_from=resume_from)

    return make
