"""One static picture of runs, as text for a terminal, a log or a pipeline.

It only lays out the header and the panels of the dashboard, which are drawn in panels/.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from rich.text import Text

from simsmoe_cli.monitor.draw.palette import PRINTED
from simsmoe_cli.monitor.draw.text import cut, side_by_side
from simsmoe_cli.monitor.json_snapshot import Seen
from simsmoe_cli.monitor.panels import PANELS, header
from simsmoe_cli.monitor.panels.pairs import similar_pairs_of_all_layers
from simsmoe_cli.monitor.panels.panel import Panel
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.monitor.view import Selection, ShownRun, View

BESIDE_FROM = 96  # cells of width from which panels are printed beside each other
GAP = 3
PAIRS_LISTED = 5


def picture(
    runs: Sequence[Seen], width: int = 100, *, color: bool = True, now: float | None = None
) -> list[Text]:
    """The panels of the runs as lines of at most `width` cells; several runs share the first.

    Args:
        runs: at least one.
        width: at least 40.
        color: False uses characters instead of colours.
        now: seconds since the epoch; None asks the clock.
    """
    now = time.time() if now is None else now
    views = [
        View((ShownRun(run.history),), _selection(run.history), PRINTED, now, color) for run in runs
    ]
    lines: list[Text] = []
    if len(runs) > 1:
        together = View(tuple(view.runs[0] for view in views), Selection(), PRINTED, now, color)
        lines += header.draw(together, width, len(runs) + 2)[: len(runs)]
        lines += _drawn(PANELS[:1], together, width)
    for view in views:
        lines += [Text()] if lines else []
        lines += _run(view, width, PANELS if len(runs) == 1 else PANELS[1:])
    return lines


def _selection(history: RunHistory) -> Selection:
    """The layer whose experts are the most similar."""
    if not len(history.similarities):
        return Selection(layer=min(history.layers, default=0))
    means = history.similarities[-1].means
    known = {layer: mean for layer, mean in means.items() if math.isfinite(mean)}
    return Selection(layer=max(known, key=known.__getitem__) if known else min(means, default=0))


def _run(view: View, width: int, panels: Sequence[Panel]) -> list[Text]:
    history = view.chosen
    lines = [*header.draw(view, width, 3), *_newest(history, width)]
    for row in _rows(panels, width):
        lines += _drawn(row, view, width)
    if len(history.similarities):
        pairs = similar_pairs_of_all_layers(history, PAIRS_LISTED)
        lines += _titled("Most similar pairs of all layers", pairs, width)
    return lines


def _newest(history: RunHistory, width: int) -> list[Text]:
    """A line of the newest scores; no line before the first."""
    numbers = [(name, history.last(name)) for name in ("train", "valid", "best")]
    told = [f"{name} {value:.3f}" for name, value in numbers if math.isfinite(value)]
    return [cut(Text(f"{history.scoring.name}: {'  '.join(told)}"), width)] if told else []


def _rows(panels: Sequence[Panel], width: int) -> list[list[Panel]]:
    """The panels, two side by side if there is room."""
    rows: list[list[Panel]] = []
    begun: list[Panel] = []  # a row that waits for its second panel
    for panel in panels:
        if panel.wide or width < BESIDE_FROM:
            rows.append([panel])
        elif begun:
            begun.append(panel)
            begun = []
        else:
            begun = [panel]
            rows.append(begun)
    return rows


def _drawn(panels: Sequence[Panel], view: View, width: int) -> list[Text]:
    """Panels side by side.

    A panel without anything to show is left out, except the first of all panels, which says so.
    """
    room = (width - GAP * (len(panels) - 1)) // len(panels)
    height = max(panel.height(view, room) for panel in panels)
    blocks = []
    for panel in panels:
        picture = panel.draw(view, room, height)
        if not picture.empty or panel is PANELS[0]:
            title = picture.title or panel.title
            note = f" · {picture.note}" if picture.note else ""
            blocks.append(_titled(title + note, _without_margins(picture.lines), room))
    return side_by_side(blocks, room, GAP)


def _titled(title: str, lines: Sequence[Text], width: int) -> list[Text]:
    head = cut(Text(f"── {title} ", "bold"), width)
    return [Text(), head.append("─" * (width - head.cell_len), "dim"), *lines]


def _without_margins(lines: Sequence[Text]) -> Sequence[Text]:
    full = [row for row, line in enumerate(lines) if line.plain.strip()]
    return lines[full[0] : full[-1] + 1] if full else []
