"""The thread that follows runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.monitor.read import follow
from simsmoe_cli.monitor.read.follow import Follower, Following
from simsmoe_cli.monitor.read.printed import PrintedTail
from simsmoe_cli.monitor.read.tail import Tail
from simsmoe_cli.monitor.state.alerts import Thresholds


@pytest.mark.parametrize(
    ("holder", "name"), [(Tail, "poll"), (PrintedTail, "poll"), (follow, "head_and_tail")]
)
def test_a_slow_disk_holds_up_nobody(
    holder: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a file is read, keys and pictures get the lock."""
    reading, go_on = threading.Event(), threading.Event()
    read: Callable[..., Any] = getattr(holder, name)

    def slow(*arguments: Any) -> Any:
        reading.set()
        go_on.wait(120)
        return read(*arguments)

    monkeypatch.setattr(holder, name, slow)
    monkeypatch.setattr(follow, "PREVIEW_FROM", 0)
    (tmp_path / "events.jsonl").write_text('{"kind": "run_started", "schema": 2, "time": 1.0}\n')
    told = threading.Event()
    follower = Follower(tmp_path, Thresholds(), lambda: 0.0)
    following = Following([follower], 0.01, lambda news: told.set() if go_on.is_set() else None)
    following.start()
    assert reading.wait(60)
    assert following.lock.acquire(timeout=20)
    following.lock.release()
    go_on.set()
    assert told.wait(60)
    following.stop()
