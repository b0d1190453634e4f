"""A whole folder of a tiny Mixtral, and a copy of it to spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.huggingface.models import (
    IDS,
    made,
    with_tokenizer,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tokenizer(made("Mixtral", tmp_path_factory.mktemp("whole") / "model"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A whole model to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"w{number}" for number in IDS))
    return path
