"""trackio's local store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.loggers.conftest import Logged
from tests.train.tiny import events

pytest.importorskip("trackio")


def test_the_store_holds_the_events_of_both_sessions_in_one_run(
    logged: Logged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trackio.sqlite_storage as storage
    import trackio.utils

    for module in (trackio.utils, storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio", raising=False)
    run = logged("trackio")
    assert storage.SQLiteStorage.get_runs("simsmoe") == ["mine"]
    rows: list[dict[str, Any]] = storage.SQLiteStorage.get_logs("simsmoe", "mine")
    losses = {row["step"]: row["train/loss_nats"] for row in rows if "train/loss_nats" in row}
    assert losses == {event["step"]: event["loss_nats"] for event in events(run, "train")}
