"""The widget of a panel: a frame, the panel's keys and clicks, and its drawing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.binding import BindingType

from simsmoe_cli.monitor.panels.panel import Panel, Picture
from simsmoe_cli.monitor.screens.drawing import Drawing
from simsmoe_cli.monitor.screens.keys import bind
from simsmoe_cli.monitor.view import Selection, View


class PanelWidget(Drawing, can_focus=True):
    """One panel on the screen; made by `panel_widget`, which gives it its keys.

    Args:
        panel: the panel.
        number: the key that calls the panel.
        look: gives the view to draw.
        choose: called with the selection after a key or a click.
        lock: held while events are taken, and while runs are drawn.
    """

    def __init__(
        self,
        panel: Panel,
        number: int,
        look: Callable[[], View],
        choose: Callable[[Selection], None],
        lock: AbstractContextManager[Any],
    ):
        super().__init__(id=panel.id)
        self.panel = panel
        self.picture = Picture([])
        self._number = number
        self._look = look
        self._choose = choose
        self._lock = lock
        self._scroll = 0
        self._on_frame = ("", "")

    @property
    def view(self) -> View:
        return replace(self._look(), scroll=self._scroll)

    def fingerprint(self) -> Hashable:
        return (self.panel.depends_on(self._look()), self._scroll)

    def draw(self, width: int, height: int) -> Sequence[Text]:
        self.picture = self.panel.draw(self.view, width, height)
        self._scroll = self.picture.scroll
        return self.picture.lines

    def redraw(self) -> None:
        with self._lock:
            super().redraw()
        # Later: Textual may be painting the frame just now.
        self.call_next(self._label_frame)

    def on_mount(self) -> None:
        self._label_frame()

    def _label_frame(self) -> None:
        """Write the title and the note of the picture on the frame."""
        on_frame = (f"{self._number} {self.picture.title or self.panel.title}", self.picture.note)
        if self._on_frame != on_frame:
            self._on_frame = on_frame
            self.border_title, self.border_subtitle = map(Text, on_frame)

    def action_press(self, index: int) -> None:
        """Act on a key of the panel, given its index."""
        action = self.panel.keys[index].action
        assert not isinstance(action, str)
        with self._lock:
            self._show(action(self.view, self.content_size.width))

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or self.panel.click is None:
            return
        for heat_map in self.picture.maps:
            cell = heat_map.layout.cell_at(offset.x - heat_map.x, offset.y - heat_map.y)
            if cell is not None:
                with self._lock:
                    self._show(self.panel.click(self.view, heat_map.run, *cell))

    def _show(self, view: View) -> None:
        self._scroll = view.scroll
        self._choose(view.selection)
        self.update()


def panel_widget(panel: Panel, *arguments: Any) -> PanelWidget:
    """The widget of a panel; the other arguments are those of `PanelWidget`."""

    class Widget(PanelWidget):
        """A class of its own, because Textual binds keys to classes."""

        BINDINGS: ClassVar[list[BindingType]] = [
            bind(
                panel.id,
                key.keys,
                key.action if isinstance(key.action, str) else f"press({index})",
                key.label,
                key.help,
                group=key.group,
                display=key.display,
            )
            for index, key in enumerate(panel.keys)
        ]

    return Widget(panel, *arguments)
