"""A few kills of the drill in `kills.py`, on every run of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_nothing_is_lost_or_left_over_by_kills() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kills", "--kills", "2", "--seed", "7"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "kills (" in done.stdout
