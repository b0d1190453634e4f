"""The dashboard: shows live run folders in a terminal.

It has two screens: a picker, which lists runs, and the dashboard of the chosen runs. It never
imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from textual.app import App, SystemCommand
from textual.binding import BindingType
from textual.content import Content
from textual.screen import Screen

from simsmoe_cli.monitor.read.follow import Severity
from simsmoe_cli.monitor.screens.dashboard import Dashboard
from simsmoe_cli.monitor.screens.help import Help
from simsmoe_cli.monitor.screens.keys import APP_KEYS
from simsmoe_cli.monitor.screens.message_line import MessageLine
from simsmoe_cli.monitor.screens.picker import Picker
from simsmoe_cli.monitor.screens.themes import DARK, LIGHT
from simsmoe_cli.monitor.state.alerts import Thresholds


class Monitor(App[None]):
    """The monitor.

    Args:
        paths: run folders to show, in this order; they need not exist yet. If there are none, the
            picker opens.
        runs_dir: the folder whose runs the picker lists.
        thresholds: when to alert.
        interval: seconds between two looks at the files.
        clock: seconds since the epoch.
    """

    TITLE = "simsmoe monitor"
    CSS_PATH = "monitor.tcss"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = APP_KEYS

    def __init__(
        self,
        paths: Sequence[Path],
        runs_dir: Path,
        thresholds: Thresholds | None = None,
        interval: float = 1.0,
        clock: Callable[[], float] = time.time,
    ):
        super().__init__()
        self.paths = list(paths)
        self.runs_dir = runs_dir
        self.thresholds = thresholds or Thresholds()
        self.interval = interval
        self.clock = clock
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = DARK.name

    def on_mount(self) -> None:
        self.push_screen(self._dashboard() if self.paths else self._picker())

    def _dashboard(self) -> Dashboard:
        return Dashboard(self.paths, self.thresholds, self.interval, self.clock, self.open_picker)

    def _picker(self) -> Picker:
        return Picker(self.runs_dir, self.clock, self.open_runs, chosen=self.paths)

    def open_runs(self, paths: Sequence[Path]) -> None:
        """Show these runs instead of the present screen."""
        self.paths = list(paths)
        self.switch_screen(self._dashboard())

    def open_picker(self) -> None:
        """Choose other runs."""
        self.switch_screen(self._picker())

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: Severity = "information",
        timeout: float | None = None,
        markup: bool = True,
    ) -> None:
        """Show a message of Textual's own, such as where a picture was saved, in the line of
        messages."""
        words = Content.from_markup(message).plain if markup else message
        for line in self.screen.query(MessageLine):
            line.tell("", severity, words)

    def action_help(self) -> None:
        if not isinstance(self.screen, Help):
            self.push_screen(Help(self.screen))

    def action_toggle_theme(self) -> None:
        self.theme = DARK.name if self.theme == LIGHT.name else LIGHT.name

    def action_picture(self) -> None:
        self.deliver_screenshot(path=".")

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        yield SystemCommand("Help", "Explain the panel in focus and every key", self.action_help)
        yield SystemCommand("Theme", "Change the colours", self.action_change_theme)
        yield SystemCommand("Picture", "Save the screen as an SVG file", self.action_picture)
        yield SystemCommand("Quit", "Quit the monitor; training continues", self.exit)
        if isinstance(screen, (Dashboard, Picker)):
            yield from screen.commands()
