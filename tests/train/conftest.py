"""Trainers of the tiny recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from tests.train.tiny import recipe


@pytest.fixture
def trainer(store: TokenStore, tmp_path: Path) -> Callable[..., Trainer]:
    """Makes trainers of the tiny recipe with changes, in a run folder each."""

    def make(name: str = "run", resume_from: Path | None = None, **changes: Any) -> Trainer:
        objective = LanguageModelling(recipe(**changes), store, torch.device("cpu"))
        return Trainer(objective, RunDir(tmp_path / name), resume_from=resume_from)

    return make
