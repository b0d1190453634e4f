"""attach under DDP and FSDP2: two processes give the gradient of the mean of both batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.any_moe.by_hand import batch, by_hand, made, require_equal

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("kind", "model_type"), [("ddp", "mixtral"), ("fsdp2", "qwen3_moe")])
def test_two_processes(kind: str, model_type: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.any_moe.ranks", kind, model_type, str(tmp_path)]
    ranks = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=180)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    require_equal(found["gradients"], by_hand(made(model_type), [batch(0), batch(1)], at_once=True))
    assert found["metrics"]["layer_0/load_max"] >= 1
