"""Shows a sweep while it trains: its progress, the trainings under way, and the table so far.

Only files are read: results.json, and the events of runs in the sweep's folder.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from simsmoe_cli.errors import escaped
from simsmoe_cli.run.event_log import read_events
from simsmoe_cli.run.find import list_runs
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.score import score_text
from simsmoe_cli.sweep.folder import results_path
from simsmoe_cli.sweep.results import Results
from simsmoe_cli.sweep.show import table_for_terminal
from simsmoe_cli.sweep.table import Table, table_of

if TYPE_CHECKING:
    from rich.console import Console, Group

SILENT_S = 600.0  # a run that wrote nothing for so long is not shown as under way


def watch(folder: Path, console: Console, interval: float, *, once: bool) -> None:
    """Show a sweep until all its trainings have finished, or once."""
    from rich.live import Live

    drawn, table = _picture(folder)
    if once:
        console.print(drawn)
        return
    with Live(drawn, console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while table.finished < table.wanted:
            time.sleep(interval)
            drawn, table = _picture(folder)
            live.update(drawn, refresh=True)


def _picture(folder: Path) -> tuple[Group, Table]:
    from rich.console import Group
    from rich.text import Text

    path = results_path(folder)
    table = _table(path, path.stat().st_mtime_ns if path.exists() else 0)
    finished = {record.name for row in table.rows for record in row.records.values()}
    lines = [
        f"{table.definition.name}: {table.finished} of {table.wanted} trainings have finished",
        *_under_way(folder, finished),
    ]
    texts = [Text(escaped(line), no_wrap=True, overflow="ellipsis") for line in lines]
    return Group(*texts, table_for_terminal(table)), table


@functools.lru_cache(maxsize=1)
def _table(path: Path, version: int) -> Table:
    """The table of a file of results, made once for each version of it: that takes a second."""
    return table_of(Results.existing(path))


def _under_way(folder: Path, finished: set[str]) -> Iterator[str]:
    """A line for each run that has not finished and has written something lately."""
    for path in list_runs(folder):
        events = RunDir(path).events
        if path.name in finished or not events.is_file():
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
