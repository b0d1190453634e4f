"""Two runs that differ in router, learning rate and scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from simsmoe_cli.compare.statistics import Comparison, compare
from tests.compare.made_runs import made_run


@pytest.fixture
def two(tmp_path: Path) -> Comparison:
    return compare(
        [
            made_run(tmp_path / "a"),
            made_run(tmp_path / "b", 1.9, 0.3, moe={"router": "xmoe"}, train={"lr": 5e-3}),
        ]
    )
