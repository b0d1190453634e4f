"""What tests of devices need before CUDA starts, and trainers on any device."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# cuBLAS reads it at the first product of a process; without it, it does not repeat bit for bit.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Tests run side by side; each need not compile on every core.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")

import torch

from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.language_modelling import LanguageModelling
from tests.train.tiny import recipe


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What CUDA, its compiler and its drivers warn of is no error of ours."""
    for item in items:
        if item.get_closest_marker("gpu") and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture
def trainer(store: TokenStore, tmp_path: Path) -> Callable[..., Trainer[Any]]:
    """Makes trainers of the tiny recipe with changes, on a device, in a run folder each."""

    def make(
        device: str, name: str = "run", resume_from: Path | None = None, **changes: Any
    ) -> Trainer[Any]:
        torch._dynamo.reset()
        objective = LanguageModelling(recipe(**changes), store, torch.device(device))
        return Trainer(objective, RunDir(tmp_path / name), resume_from=resume_from)

    return make
