"""The precision of a run that goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from simsmoe_cli.model import precision
from simsmoe_cli.train.loop import Trainer


def test_a_resumed_run_keeps_its_precision(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another answer of the probe changes nothing half way."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(precision, "bf16_gain", lambda: 9.0)
    first = trainer(train={"steps": 4, "checkpoint_every": 2})
    assert first.objective.precision == "bf16"
    first.train()
    monkeypatch.setattr(precision, "bf16_gain", lambda: 0.5)
    saved = tmp_path / "run" / "checkpoints" / "step-0000002"
    again = trainer(train={"steps": 4, "checkpoint_every": 2}, resume_from=saved)
    assert again.objective.precision == "bf16"
