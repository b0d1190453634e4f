"""How many panels stand beside each other in a window of a given size, and which.

At 80 x 24 one panel fills the window and the others are a key away; at 200 x 60 all are seen.
"""

from __future__ import annotations

from dataclasses import dataclass

PANEL_WIDTH = 46
PANEL_HEIGHT = 14
LAST_HEIGHT = 7  # of the last panel, the events, where it has a row of its own under all others


@dataclass(frozen=True)
class Page:
    """The panels seen at once.

    Attributes:
        panels: their indices, in order.
        columns: of the grid.
        low_last: whether the last row is the low one of the events.
    """

    panels: tuple[int, ...]
    columns: int
    low_last: bool

    @property
    def rows(self) -> int:
        return -(-len(self.panels) // self.columns)

    @property
    def last_span(self) -> int:
        """Columns the last panel takes: what is left of its row."""
        return self.columns - (len(self.panels) - 1) % self.columns


def pages(panels: int, width: int, height: int) -> tuple[Page, ...]:
    """The pages on which `panels` panels are seen in `width` x `height` cells."""
    columns = max(1, min(3, width // PANEL_WIDTH))
    rows_of_others = -(-(panels - 1) // columns)
    if height >= rows_of_others * PANEL_HEIGHT + LAST_HEIGHT:
        low_last = (panels - 1) % columns == 0
        return (Page(tuple(range(panels)), columns, low_last),)
    capacity = columns * max(1, height // PANEL_HEIGHT)
    return tuple(
        Page(tuple(range(first, min(panels, first + capacity))), columns, False)
        for first in range(0, panels, capacity)
    )


def page_of(panel: int, all_pages: tuple[Page, ...]) -> Page:
    """The page that holds a panel."""
    return next(page for page in all_pages if panel in page.panels)
