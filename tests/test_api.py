"""The public Python API: a few names, lazily, and every example of docs/api.md runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainingArguments

import simsmoe_cli as simsmoe
from tests.any_moe.by_hand import batch, made
from tests.any_moe.own_model import OwnModel
from tests.any_moe.test_trainer_callback import Texts

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text("utf-8"), re.S)


def test_every_name_is_there() -> None:
    assert {"attach", "Handle", "SimSMoECallback", "UserError"} <= set(simsmoe.__all__)
    for name in simsmoe.__all__:
        assert getattr(simsmoe, name) is not None
        assert name in dir(simsmoe)
    with pytest.raises(AttributeError, match="attached"):
        _ = simsmoe.attached  # type: ignore[attr-defined]


def test_importing_it_imports_no_torch() -> None:
    program = "import sys, simsmoe_cli as simsmoe; simsmoe.UserError; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = made("olmoe")
    ids = [batch(number) for number in range(12)]
    given: dict[str, Any] = {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters()),
        "batches": [{"input_ids": row, "labels": row} for row in ids],
    }
    exec(EXAMPLES[0], given)
    assert "cka_mean" in capsys.readouterr().out
    assert (tmp_path / "runs/my-olmoe/events.jsonl").is_file()


def test_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = TrainingArguments(
        output_dir="out", max_steps=2, logging_steps=1, report_to="none", use_cpu=True
    )
    given: dict[str, Any] = {
        "simsmoe": simsmoe,
        "model": made("olmoe"),
        "arguments": arguments,
        "texts": Texts(),
    }
    exec(EXAMPLES[1], given)
    logged = given["trainer"].state.log_history
    assert any("loss" in entry for entry in logged)
    assert (tmp_path / "runs/my-olmoe/events.jsonl").is_file()


def test_a_finder_of_ones_own() -> None:
    class MyBlock(nn.Module):
        def __init__(self, layer: Any):
            super().__init__()
            self.layer, self.ffns, self.selector = layer, layer.experts, layer.gate

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(x)
            return out

    model = OwnModel()
    model.layers = nn.ModuleList(MyBlock(layer) for layer in model.layers)
    given: dict[str, Any] = {"simsmoe": simsmoe, "model": model, "MyBlock": MyBlock}
    exec(EXAMPLES[2], given)
    x = torch.randn(4, 20, 16, generator=torch.Generator().manual_seed(0))
    model(x).square().mean().backward()
    given["handle"].step()
    assert given["handle"].metrics()["layer_0/load_max"] >= 1
    assert len(EXAMPLES) == 3
