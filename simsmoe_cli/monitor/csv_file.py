"""The curves of a panel as a CSV file, for a spreadsheet or a plot of one's own.

One line for each point: run, series, step, seconds since the first train event, value, and the
lowest and highest of the values where a long run has several to a point. Values are not smoothed.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from simsmoe_cli.files import atomic
from simsmoe_cli.monitor.panels.curves import began, points
from simsmoe_cli.monitor.panels.panel import Panel
from simsmoe_cli.monitor.read.follow import Severity
from simsmoe_cli.monitor.view import View

COLUMNS = ("run", "series", "step", "seconds", "value", "low", "high")
LONGEST_NAME = 80


def csv_text(view: View, series: Sequence[str]) -> str:
    """The points of these series of all runs of the view."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in view.runs:
        history = run.history
        for name in series:
            found = points(history, name)
            rows = zip(
                found.step,
                found.time - began(history),
                found.mean,
                found.low,
                found.high,
                strict=True,
            )
            for step, *numbers in rows:
                writer.writerow([history.name, name, int(step), *map(_number, numbers)])
    return text.getvalue()


def save(view: View, series: Sequence[str], panel: str, folder: Path) -> Path:
    """Write the file into a folder under a name that is free there; gives its path.

    Raises:
        OSError: it cannot be written.
    """
    names = "-".join(run.history.path.absolute().name for run in view.runs)
    stem = f"{panel}-{names}"[:LONGEST_NAME]
    path, number = folder / f"{stem}.csv", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.csv"
    atomic.write(path, csv_text(view, series))
    return path


def saved(view: View, panel: Panel, folder: Path) -> tuple[Severity, str]:
    """Save the curves of a panel; how it went, in words."""
    if panel.series is None:
        return "warning", f"{panel.short} has no curves to save"
    try:
        path = save(view, panel.series(view), panel.id, folder)
    except OSError as error:
        return "error", f"the curves were not saved: {error.strerror}"
    return "information", f"saved {path.absolute()}"


def _number(value: float) -> str:
    """As short as the number allows; empty where it is not known."""
    return f"{value:.9g}" if math.isfinite(value) else ""
