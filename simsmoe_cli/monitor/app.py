"""The dashboard: live run folders in a terminal.

It reads what `tail` and `history` gather and shows it on one of two screens: a picker of the runs
there are, and the dashboard of those chosen. It never imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from simsmoe_cli.monitor.draw.themes import DARK, LIGHT
from simsmoe_cli.monitor.screens.dashboard import Dashboard
from simsmoe_cli.monitor.screens.help import Help
from simsmoe_cli.monitor.screens.picker import Picker
from simsmoe_cli.monitor.state.alerts import Thresholds


class Monitor(App[None]):
    """The monitor.

    Args:
        paths: run folders to show, in this order; they need not exist yet. Empty: the picker opens.
        runs_dir: where the picker looks.
        thresholds: when to alert.
        interval: seconds between two looks at the files.
        clock: seconds since the epoch.
    """

    TITLE = "simsmoe monitor"
    CSS_PATH = "monitor.tcss"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "f1",
            "help",
            "Help",
            id="app.help",
            key_display="F1",
            tooltip="Explain the panel in focus and every key",
        ),
        Binding(
            "question_mark",
            "help",
            "Help",
            id="app.help2",
            show=False,
            tooltip="Explain the panel in focus and every key",
        ),
        Binding(
            "ctrl+p",
            "command_palette",
            "palette",
            id="app.palette",
            show=False,
            priority=True,
            tooltip="Everything that can be done, by name",
        ),
        Binding(
            "d", "toggle_theme", "Theme", id="app.theme", show=False, tooltip="Dark or light theme"
        ),
        Binding(
            "s",
            "picture",
            "Picture",
            id="app.picture",
            show=False,
            tooltip="Save what is seen as an SVG file in the working directory",
        ),
        Binding("q", "quit", "Quit", id="app.quit", tooltip="Leave; training goes on"),
    ]

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
        first = self.dashboard(self.paths) if self.paths else Picker(self.runs_dir, self.clock)
        self.push_screen(first)

    def dashboard(self, paths: Sequence[Path]) -> Dashboard:
        """A dashboard of these runs."""
        return Dashboard(paths, self.thresholds, self.interval, self.clock)

    def open_runs(self, paths: Sequence[Path]) -> None:
        """Show these runs instead of what is seen now."""
        self.paths = list(paths)
        self.switch_screen(self.dashboard(paths))

    def open_picker(self) -> None:
        """Choose other runs."""
        self.switch_screen(Picker(self.runs_dir, self.clock, chosen=self.paths))

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
        yield SystemCommand("Picture", "Save what is seen as an SVG file", self.action_picture)
        yield SystemCommand("Quit", "Leave the monitor; training goes on", self.exit)
        if isinstance(screen, (Dashboard, Picker)):
            yield from screen.commands()
