"""Which panels a window of a given size shows, and in how many columns.

At 80 x 24 one panel fills the window and a key leads to each other one; 200 x 60 shows them all.
"""

from __future__ import annotations

from dataclasses import dataclass

PANEL_WIDTH = 46
PANEL_HEIGHT = 14
LAST_HEIGHT = 7  # of the last panel, the events, if it has a row of its own below the others


@dataclass(frozen=True)
class Page:
    """Panels that are shown together.

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
        """Columns of the last panel: the rest of its row."""
        return self.columns - (len(self.panels) - 1) % self.columns


def pages(panels: int, width: int, height: int) -> tuple[Page, ...]:
    """The pages that show this many panels in a window of `width` x `height` cells."""
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
