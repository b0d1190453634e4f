"""The runs of a folder, from the head and the tail of each one's events."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import stat
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from simsmoe_cli.errors import EXIT_DATA, UserError, nearest
from simsmoe_cli.monitor.read.head_tail import head_and_tail
from simsmoe_cli.monitor.state.run import RunHistory, Status
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
    cka: float
    modified: float
    recipe_name: str
    router: str
    similarity: str


def find_runs(runs_dir: Path, now: float | None = None) -> list[RunSummary]:
    """The runs of a folder, the one written to last first; empty where there is no folder."""
    now = time.time() if now is None else now
    found = [summarise(folder, now) for folder in folders(runs_dir)]
    return sorted(found, key=lambda run: (-run.modified, run.name))


def summarise(folder: Path, now: float) -> RunSummary:
    """What the head and the tail of a run's events say; read again only when they have changed."""
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
        cka=history.last("cka"),
        modified=modified,
        recipe_name=history.recipe_name,
        router=history.router,
        similarity=history.similarity,
    )
    return summary, history.last_time, history.patience_s


def resolve(run: str | Path, runs_dir: Path) -> Path:
    """The run folder of a name under `runs_dir`, or of a path; its events.jsonl will do.

    Raises:
        UserError: there is none; names the nearest.
    """
    for path in (runs_dir / run, Path(run).absolute()):
        if path.name == "events.jsonl" and path.is_file():
            return path.parent
        if not path.is_dir():
            continue
        if _is_run(path) or not (inside := find_runs(path)):
            return path
        raise UserError(
            "this is a folder of runs, not a run",
            where=str(path),
            hint=f"Choose one of them by --runs-dir {shlex.quote(str(path))} "
            f"{shlex.quote(inside[0].name)}, or look at all without a name.",
            code=EXIT_DATA,
        )
    known = [entry.name for entry in folders(runs_dir)]
    raise UserError(
        f"no run '{run}'", where=str(runs_dir), hint=nearest(Path(run).name, known), code=EXIT_DATA
    )


def expected(run: str | Path, runs_dir: Path) -> Path:
    """Where a run is or will be: as `resolve`, but a run that does not exist yet is one below
    `runs_dir`, or the path given if it has several parts."""
    if any(path.exists() for path in (runs_dir / run, Path(run))):
        return resolve(run, runs_dir)
    return runs_dir / run if len(Path(run).parts) == 1 else Path(run)


def folders(runs_dir: Path) -> list[Path]:
    """Run folders of a folder but for those that cannot be read; empty where there is none."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(runs_dir):
            with contextlib.suppress(OSError):
                if _is_run(Path(entry.path)):
                    found.append(Path(entry.path))
    return found


def _is_run(folder: Path) -> bool:
    run = RunDir(folder)
    return run.events.exists() or run.recipe.exists()
