"""A widget of lines that are drawn once and kept until their content changes.

Textual asks a widget for its lines whenever anything near it moves. `Drawing` draws all lines when
its fingerprint changes, keeps them as strips, and repaints only the lines that differ from before.
So a dashboard whose numbers do not change costs nothing, and a slow connection has little to carry.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from rich.text import Text
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from simsmoe_cli.monitor.draw.text import CONSOLE


class Drawing(Widget):
    """Draws lines of text when its fingerprint changes."""

    ALLOW_SELECT = False

    def __init__(self, *, id: str | None = None, classes: str | None = None):
        super().__init__(id=id, classes=classes)
        self._strips: list[Strip] = []
        self._drawn: Hashable = None
        self._size_drawn = Size()

    def fingerprint(self) -> Hashable:
        """Everything the lines depend on, except size and theme."""
        raise NotImplementedError

    def draw(self, width: int, height: int) -> Sequence[Text]:
        """The lines, at most `height` of at most `width` cells."""
        raise NotImplementedError

    def update(self) -> None:
        """Draw again if the fingerprint has changed, and repaint the lines that differ."""
        if self.is_attached and self.display and self._drawn != self._key():
            before = self._strips
            self.redraw()
            width = self.content_size.width
            changed = [
                Region(0, y, width, 1)
                for y, strip in enumerate(self._strips)
                if y >= len(before) or strip != before[y]
            ]
            if len(before) != len(self._strips):
                self.refresh()
            elif changed:
                self.refresh(*changed)

    def render_line(self, y: int) -> Strip:
        """One line, as Textual asks for it."""
        if self._drawn is None or self._size_drawn != self.content_size:
            self.redraw()
        width = self.content_size.width
        if y >= len(self._strips):
            return Strip.blank(width, self.rich_style)
        return self._strips[y]

    def notify_style_update(self) -> None:
        """Draw again after a change of style, which the fingerprint does not cover."""
        self._drawn = None
        super().notify_style_update()

    def _key(self) -> Hashable:
        return (self.content_size, self.app.theme, self.fingerprint())

    def redraw(self) -> None:
        """Draw all lines."""
        size = self._size_drawn = self.content_size
        self._drawn = self._key()
        style = self.rich_style
        lines = self.draw(size.width, size.height) if size.width and size.height else []
        self._strips = [
            Strip(line.render(CONSOLE)).adjust_cell_length(size.width).apply_style(style)
            for line in lines[: size.height]
        ]
