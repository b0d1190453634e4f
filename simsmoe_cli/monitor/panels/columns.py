"""Pictures of several runs beside each other in one panel."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

GAP = 2


def fitting(runs: int, chosen: int, width: int, least: int) -> tuple[range, int]:
    """Which runs fit beside each other, the chosen one among them, and how wide each may be.

    Args:
        runs: how many there are.
        chosen: index of the one that must be seen.
        width: cells there are.
        least: cells a picture needs.
    """
    count = max(1, min(runs, (width + GAP) // (least + GAP)))
    first = max(0, min(chosen - count // 2, runs - count))
    return range(first, first + count), (width - GAP * (count - 1)) // count


def beside(blocks: Sequence[Sequence[Text]], width: int) -> list[Text]:
    """Blocks of lines, each `width` cells wide, beside each other; the texts are consumed."""
    rows = []
    for row in range(max(map(len, blocks), default=0)):
        line = Text(no_wrap=True)
        for number, block in enumerate(blocks):
            if number:
                line.append(" " * GAP)
            part = block[row] if row < len(block) else Text()
            part.truncate(width)
            part.pad_right(width - part.cell_len)
            line.append_text(part)
        rows.append(line)
    return rows


def filled(lines: list[Text], height: int) -> list[Text]:
    """The lines, with empty ones below up to a height."""
    return lines[:height] + [Text() for _ in range(height - len(lines))]
