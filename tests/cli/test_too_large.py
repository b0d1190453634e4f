"""A training that cannot fit is refused before it takes any memory or writes anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_OUT_OF_MEMORY
from simsmoe_cli.model import size
from simsmoe_cli.recipe.load import dump_recipe
from tests.train.tiny import recipe


def test_a_model_larger_than_the_machine_is_refused(
    tmp_path: Path,
    corpus_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(dump_recipe(recipe()), encoding="utf-8")
    # Ten terabytes of experts, and four times that with gradients and moments.
    huge = ["model.repeats=100", "moe.experts=8192", "moe.hidden=1024", "model.width=1024"]
    line = ["pretrain", "--recipe", "tiny.yaml", "--data-dir", str(corpus_dir)]
    line += [word for change in huge for word in ("--set", change)]
    assert size.memory_of(torch.device("cpu")) < 10**13
    assert main.run(line) == EXIT_OUT_OF_MEMORY
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "GB of memory, and this machine has" in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
