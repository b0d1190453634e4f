"""The checks of packages and folders."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from simsmoe_cli.doctor import installed

ROOT = Path(__file__).resolve().parents[2]


def test_what_the_extras_bring_is_looked_at_and_can_be_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = project["optional-dependencies"]
    names = [name.partition(">=")[0] for extra in ("hf", "serve") for name in brought[extra]]
    assert names
    ours = {name.partition(">=")[0] for name in brought["dev"]}
    for name in names:
        assert installed.package(name).status == "ok" or name not in ours
        monkeypatch.setitem(sys.modules, name.replace("-", "_"), None)
        found = installed.package(name)
        assert found.status == "missing"
        assert "extra" in found.cost
        assert found.remedy == f"python3 -m pip install --upgrade {name}"


def test_little_room_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert installed.folder("runs folder", tmp_path / "a/b", "--runs-dir").status == "ok"
    monkeypatch.setattr(installed, "LITTLE_DISK", float("inf"))
    found = installed.folder("runs folder", tmp_path / "a/b", "--runs-dir")
    assert found.status == "missing"
    assert "GB free" in found.found
