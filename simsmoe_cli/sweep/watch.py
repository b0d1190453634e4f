"""Shows a sweep while it trains: its progress, the trainings under way, those that failed, and the
table so far.

Only files are read: results.json, failed.json, and the events of runs in the sweep's folder.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from simsmoe_cli.errors import escaped
from simsmoe_cli.run.event_log import read_events
from simsmoe_cli.run.find import list_runs
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.score import score_text
from simsmoe_cli.sweep.folder import read_failed, results_path
from simsmoe_cli.sweep.results import Results
from simsmoe_cli.sweep.show import table_for_terminal
from simsmoe_cli.sweep.table import Table, table_of

SILENT_S = 600.0  # a run that wrote nothing for so long is not shown as under way


def watch(folder: Path, console: Console, interval: float, *, once: bool) -> bool:
    """Show a sweep until all its trainings have finished or failed, or once.

    Returns:
        Whether it was watched to its end, and trainings failed.
    """
    picture = _picture(folder)
    if once:
        console.print(picture.drawn)
        return False
    live = Live(picture.drawn, console=console, auto_refresh=False, vertical_overflow="visible")
    with live:
        while not picture.ended:
            time.sleep(interval)
            picture = _picture(folder)
            live.update(picture.drawn, refresh=True)
    return picture.failed


@dataclass(frozen=True)
class _Picture:
    """What is shown of a sweep.

    Attributes:
        drawn: for the terminal.
        ended: whether nothing is left to train.
        failed: whether trainings failed.
    """

    drawn: Group
    ended: bool
    failed: bool


def _picture(folder: Path) -> _Picture:
    failures = read_failed(folder)
    path = results_path(folder)
    table = _table(path, path.stat().st_mtime_ns if path.exists() else 0)
    finished = {record.name for row in table.rows for record in row.records.values()}
    failed = {name: reason for name, reason in failures.reasons.items() if name not in finished}
    tasks = [task.task for task in table.definition.finetune]
    over = {*finished, *failed, *(f"{name}-{task}" for name in finished for task in tasks)}
    lines = [
        f"{table.definition.name}: {table.finished} of {table.wanted} trainings have finished",
        *_under_way(folder, over),
        *(f"  {name}  failed: {reason}" for name, reason in failed.items()),
    ]
    texts = [Text(escaped(line), no_wrap=True, overflow="ellipsis") for line in lines]
    ended = table.finished >= table.wanted or (bool(failed) and not failures.left)
    return _Picture(Group(*texts, table_for_terminal(table)), ended, bool(failed))


@functools.lru_cache(maxsize=1)
def _table(path: Path, version: int) -> Table:
    """The table of a file of results, made once for each version of it: that takes a second."""
    return table_of(Results.existing(path))


def _under_way(folder: Path, over: set[str]) -> Iterator[str]:
    """A line for each run that is not over and has written something lately."""
    for path in list_runs(folder):
        events = RunDir(path).events
        if path.name in over or not events.is_file():
            continue
        if time.time() - events.stat().st_mtime > SILENT_S:
            continue
        step, total, score = 0, None, ""
        for event in read_events(events):
            step = event["step"]
            if event["kind"] == "run_started":
                total = event.get("total_steps")
            elif event["kind"] == "train":
                score = score_text(event)
        of = "" if total is None else f" of {total:,}"
        yield f"  {path.name}  step {step:,}{of}  {score}"
