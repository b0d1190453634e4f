"""Which panels a window of a given size shows, and in how many columns.

At 80 x 24 one panel fills the window and a key leads to each other one; 200 x 60 shows them all.
"""

from __future__ import annotations

from dataclasses import dataclass

PANEL_WIDTH, PANEL_HEIGHT = 46, 14
WIDTH_OF_MANY, HEIGHT_OF_MANY = 62, 16  # from three runs on
LOW_PANELS = 2  # the last ones, of text: the log and the events
LOW_HEIGHT = 7  # of their row, if they have one of their own below the others


@dataclass(frozen=True)
class Page:
    """Panels that are shown together.

    Attributes:
        panels: their indices, in order.
        columns: of the grid.
        low_last: whether the last row is the low one of the panels of text.
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


def pages(panels: int, width: int, height: int, runs: int = 1) -> tuple[Page, ...]:
    """The pages that show this many panels of some runs in a window of `width` x `height` cells."""
    wide, high = (WIDTH_OF_MANY, HEIGHT_OF_MANY) if runs > 2 else (PANEL_WIDTH, PANEL_HEIGHT)
    columns = max(1, min(3, width // wide))
    others = panels - LOW_PANELS
    low_last = columns >= LOW_PANELS and others % columns == 0
    rows = others // columns if low_last else -(-panels // columns)
    if height >= rows * high + low_last * LOW_HEIGHT:
        return (Page(tuple(range(panels)), columns, low_last),)
    capacity = columns * max(1, height // high)
    return tuple(
        Page(tuple(range(first, min(panels, first + capacity))), columns, False)
        for first in range(0, panels, capacity)
    )


def page_of(panel: int, all_pages: tuple[Page, ...]) -> Page:
    """The page that holds a panel."""
    return next(page for page in all_pages if panel in page.panels)
