"""The two widgets above the panels: the header, and the row of tabs.

The tabs show which panels exist, which are on the screen and which has the focus.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.message import Message

from simsmoe_cli.monitor.panels import header
from simsmoe_cli.monitor.screens.drawing import Drawing
from simsmoe_cli.monitor.view import View


class HeaderBar(Drawing):
    """The header on the screen.

    Args:
        look: gives the view to draw.
    """

    def __init__(self, look: Callable[[], View]):
        super().__init__(id="header")
        self._look = look

    def fingerprint(self) -> Hashable:
        return header.depends_on(self._look())

    def draw(self, width: int, height: int) -> Sequence[Text]:
        return header.draw(self._look(), width, height)


@dataclass(frozen=True)
class Tab:
    """One panel in the row.

    Attributes:
        name: short.
        shown: whether it is on the screen.
        focused: whether keys go to it.
        alarmed: whether it holds alerts that were not seen yet.
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
        line = Text(no_wrap=True)
        for tab, label in zip(self.tabs, self._labels(width), strict=True):
            if tab.focused:
                style = f"bold {theme.background} on {theme.primary}"
            elif tab.alarmed:
                style = f"bold {theme.warning}"
            else:
                style = "" if tab.shown else "dim"
            line.append(label, style)
        return [line]

    def _labels(self, width: int) -> list[str]:
        long = sum(len(tab.name) + 5 for tab in self.tabs) <= width
        return [
            f" {number} {tab.name if long else tab.name[:7]}{'!' if tab.alarmed else ''} "
            for number, tab in enumerate(self.tabs, 1)
        ]

    def on_click(self, event: events.Click) -> None:
        end = 0
        for index, label in enumerate(self._labels(self.content_size.width)):
            end += cell_len(label)
            if event.x < end:
                self.post_message(self.Chosen(index))
                return
