"""A small prepared corpus of real text, and trainers that run on it."""

from __future__ import annotations

import argparse
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from simsmoe_cli.data.prepare import prepare
from simsmoe_cli.data.store import TokenStore
from simsmoe_cli.rundir import RunDir
from simsmoe_cli.train.loop import Trainer
from tests.train.tiny import recipe


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one prepared corpus, "sources": two modules of the standard library."""
    folder = tmp_path_factory.mktemp("data")
    text = folder / "sources.txt"
    text.write_text(inspect.getsource(argparse) + inspect.getsource(typing))
    prepare(str(text), folder / "sources")
    return folder


@pytest.fixture(scope="session")
def store(corpus_dir: Path) -> TokenStore:
    return TokenStore.open(corpus_dir / "sources")


@pytest.fixture
def trainer(store: TokenStore, tmp_path: Path) -> Callable[..., Trainer]:
    """Makes trainers of the tiny recipe with changes, in a run folder each."""

    def make(name: str = "run", resume_from: Path | None = None, **changes: Any) -> Trainer:
        return Trainer(
            recipe(**changes),
            store,
            RunDir(tmp_path / name),
            torch.device("cpu"),
            resume_from=resume_from,
        )

    return make
