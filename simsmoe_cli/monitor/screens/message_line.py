"""One line of messages over the footer: what happened just now, at most one message of each run.

It covers nothing but the names of keys: no chart, no picture, no help.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text
from textual.timer import Timer
from textual.widgets import Static

from simsmoe_cli.monitor.draw.text import cut
from simsmoe_cli.monitor.read.follow import Severity

SHOWN_S = 10.0
MARKS = {"information": "✓", "warning": "!", "error": "▲"}


@dataclass(frozen=True)
class Told:
    """A message.

    Attributes:
        about: the run, or "" for none.
    """

    about: str
    severity: Severity
    text: str


class MessageLine(Static):
    """The line; it is hidden while there is nothing to say."""

    def __init__(self) -> None:
        super().__init__(id="messages")
        self.told: dict[str, Told] = {}
        self._to_hide: Timer | None = None

    def tell(self, about: str, severity: Severity, text: str) -> None:
        """Show a message, instead of the last one about the same run."""
        self.told.pop(about, None)
        self.told[about] = Told(about, severity, text)
        self._show()
        if self._to_hide is not None:
            self._to_hide.stop()
        self._to_hide = self.set_timer(SHOWN_S, self.hide)

    def hide(self) -> None:
        """Forget all messages."""
        self.told = {}
        self._show()

    def on_click(self) -> None:
        self.hide()

    def on_resize(self) -> None:
        self._show()

    def _show(self) -> None:
        theme = self.app.current_theme
        colors = {"information": theme.success, "warning": theme.warning, "error": theme.error}
        line = Text(no_wrap=True)
        for told in reversed(self.told.values()):
            line.append("   " if line.plain else "")
            line.append(f"{MARKS[told.severity]} ", f"bold {colors[told.severity] or ''}")
            line.append(f"{told.about}: " if told.about else "", "bold").append(told.text)
        self.display = bool(self.told)
        self.update(cut(line, max(1, self.app.size.width - 2)))
