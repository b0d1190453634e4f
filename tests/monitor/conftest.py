"""Run folders that the monitor's tests read and leave as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.monitor.made_run import write_run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs first, second and third, whose experts part at different speeds."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "first")
    write_run(folder / "second", similarity="none", separate=0.2)
    write_run(folder / "third", separate=0.5)
    return folder
