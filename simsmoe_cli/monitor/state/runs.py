"""Summarises the runs of a folder, from the head and the tail of their events."""

from __future__ import annotations

import contextlib
import math
import os
import stat
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from simsmoe_cli.monitor.read.head_tail import head_and_tail
from simsmoe_cli.monitor.state.run import RunHistory, Status
from simsmoe_cli.run.find import list_runs
from simsmoe_cli.run.folder import RunDir


@dataclass(frozen=True)
class RunSummary:
    """One row of the picker.

    Attributes:
        path: the run folder.
        name: its name.
        state: see `RunHistory.status_at`.
        step, total_steps: total_steps is None where unknown.
        score: newest train or validation score among the last events; nan where there is none.
        score_name: "BPC", "accuracy" or "loss".
        test_score: of a run that was tested; nan where it was not.
        cka: newest mean pairwise similarity over layers among the last events; nan likewise.
        modified: seconds since the epoch of the last write to its events, or to the folder; 0 where
            neither can be seen.
        recipe_name, router, similarity: "" where unknown.
    """

    path: Path
    name: str
    state: Status
    step: int
    total_steps: int | None
    score: float
    score_name: str
    test_score: float
    cka: float
    modified: float
    recipe_name: str
    router: str
    similarity: str


def find_runs(runs_dir: Path, now: float | None = None) -> list[RunSummary]:
    """The runs of a folder, the one written to last first; empty where there is no folder."""
    now = time.time() if now is None else now
    found = [summarise(folder, now) for folder in list_runs(runs_dir)]
    return sorted(found, key=lambda run: (-run.modified, run.name))


def summarise(folder: Path, now: float) -> RunSummary:
    """The summary of a run from the head and the tail of its events, cached until they change."""
    try:
        info = os.stat(RunDir(folder).events)
    except OSError:
        info = None
    if info is None or not stat.S_ISREG(info.st_mode):
        return _summary.__wrapped__(folder, 0, 0)[0]
    summary, last_time, patience_s = _summary(folder, info.st_size, info.st_mtime_ns)
    if summary.state == "training" and not now - last_time <= patience_s:
        return replace(summary, state="stale")
    return summary


@lru_cache(maxsize=4096)
def _summary(folder: Path, size: int, mtime_ns: int) -> tuple[RunSummary, float, float]:
    """The run as it was when its newest event was written, that time, and how long to wait for
    another."""
    history = RunHistory(folder)
    modified = mtime_ns / 1e9
    with contextlib.suppress(OSError):  # what cannot be read is listed as waiting
        modified = modified or folder.stat().st_mtime
        if size:
            history.apply(head_and_tail(RunDir(folder).events))
    valid, train = history.last("valid"), history.last("train")
    summary = RunSummary(
        path=folder,
        name=history.name,
        state=history.status_at(history.last_time),
        step=history.step,
        total_steps=history.total_steps,
        score=train if math.isnan(valid) else valid,
        score_name=history.scoring.name,
        test_score=history.test_score,
        cka=history.last("cka"),
        modified=modified,
        recipe_name=history.recipe_name,
        router=history.router,
        similarity=history.similarity,
    )
    return summary, history.last_time, history.patience_s
