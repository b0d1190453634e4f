"""The row of tabs: which panels there are, which are on the screen, which has the focus."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rich.text import Text
from textual import events
from textual.message import Message

from simsmoe_cli.monitor.panels.drawing import Drawing


@dataclass(frozen=True)
class Tab:
    """One panel in the row.

    Attributes:
        name: short.
        shown: whether it is on the screen.
        focused: whether keys go to it.
        alarmed: whether it has something new to tell.
    """

    name: str
    shown: bool
    focused: bool
    alarmed: bool


class Tabs(Drawing):
    """Tabs by number; a click opens one."""

    @dataclass
    class Chosen(Message):
        """A tab was clicked."""

        index: int

    def __init__(self) -> None:
        super().__init__(id="tabs")
        self.tabs: tuple[Tab, ...] = ()

    def fingerprint(self) -> Hashable:
        return self.tabs

    def draw(self, width: int, height: int) -> Sequence[Text]:
        theme = self.app.current_theme
        long = sum(len(tab.name) + 5 for tab in self.tabs) <= width
        line = Text(no_wrap=True)
        for number, tab in enumerate(self.tabs, 1):
            if tab.focused:
                style = f"bold {theme.background} on {theme.primary}"
            elif tab.alarmed:
                style = f"bold {theme.warning}"
            else:
                style = "" if tab.shown else "dim"
            mark = "!" if tab.alarmed else ""
            label = f" {number} {tab.name}{mark} " if long else f" {number} {tab.name[:7]}{mark} "
            line.append(label, style)
        return [line]

    def on_click(self, event: events.Click) -> None:
        position = 0
        text = self.draw(self.content_size.width, 1)[0]
        for index, span in enumerate(text.spans):
            position = span.end
            if event.x < position:
                self.post_message(self.Chosen(index))
                return
