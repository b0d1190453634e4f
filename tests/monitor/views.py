"""Views of run folders, and what panels draw of them, without a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simsmoe_cli.monitor.draw.palette import PRINTED
from simsmoe_cli.monitor.json_snapshot import read
from simsmoe_cli.monitor.panels.panel import Panel
from simsmoe_cli.monitor.view import Selection, ShownRun, View
from tests.monitor.made_run import BEGAN, STEP_S

NOW = BEGAN + 2000 * STEP_S + 5


def view_of(*folders: Path, now: float = NOW, color: bool = True, **selection: Any) -> View:
    """A view of runs that have been read to their end, and what is chosen in it."""
    runs = tuple(ShownRun(read(folder, now=now).history) for folder in folders)
    return View(runs, Selection(**selection), PRINTED, now, color)


def drawn(panel: Panel, view: View, width: int = 78, height: int = 20) -> list[str]:
    """The lines of a panel as plain text."""
    return [line.plain.rstrip() for line in panel.draw(view, width, height).lines]


def key(panel: Panel, view: View, name: str, width: int = 78) -> View:
    """The view after a key that the panel itself acts on."""
    (action,) = [key.action for key in panel.keys if name in key.keys.split(",")]
    assert not isinstance(action, str)
    return action(view, width)
