"""Words for numbers, and lines of text laid out without a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

# Lays text out; nothing is ever printed to it.
CONSOLE = Console(width=10_000, color_system=None, force_terminal=False, legacy_windows=False)


def decimal(value: float, digits: int = 3, undefined: str = "–") -> str:
    """A number with this many digits after the point; a dash if it is not finite."""
    return f"{value:.{digits}f}" if math.isfinite(value) else undefined


def wrapped(text: Text, width: int) -> list[Text]:
    """The text in lines of at most `width` cells."""
    return list(text.wrap(CONSOLE, max(1, width)))


def message(text: str, width: int, height: int) -> list[Text]:
    """A few words in the middle of an empty space."""
    words = wrapped(Text(text, style="dim"), min(width - 2, 60))
    lines = [Text() for _ in range(max(0, (height - len(words)) // 2))]
    for line in words:
        line.rstrip()
        line.pad_left(max(0, (width - line.cell_len) // 2))
        lines.append(line)
    return lines[:height]


def cut(line: Text, width: int) -> Text:
    """The line, its end replaced by an ellipsis where it is too long."""
    if width < 1:
        return Text()
    line.truncate(width, overflow="ellipsis")
    return line


def filled(lines: list[Text], height: int) -> list[Text]:
    """The first `height` lines, with empty lines below where there are fewer."""
    return lines[:height] + [Text() for _ in range(height - len(lines))]


def side_by_side(blocks: Sequence[Sequence[Text]], width: int, gap: int = 2) -> list[Text]:
    """Blocks of lines, each `width` cells wide, side by side; the texts are modified."""
    rows = []
    for row in range(max(map(len, blocks), default=0)):
        line = Text(no_wrap=True)
        for number, block in enumerate(blocks):
            if number:
                line.append(" " * gap)
            part = block[row] if row < len(block) else Text()
            part.truncate(width)
            part.pad_right(width - part.cell_len)
            line.append_text(part)
        rows.append(line)
    return rows
