"""Fixtures of the mixture-of-experts tests."""

from __future__ import annotations

import pytest

from tests.moe import fmoe_standin


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> None:
    """fastmoe's functions in plain torch, on the CPU."""
    fmoe_standin.install(monkeypatch)
