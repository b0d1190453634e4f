"""The legend of the scores of several runs: a table with a line for each run.

Numbers are never cut: where there is too little room, columns are left out, then names shortened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from simsmoe_cli.monitor.draw.canvas import Curve, samples
from simsmoe_cli.monitor.draw.text import cut
from simsmoe_cli.monitor.panels.curves import points, value_at
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.monitor.view import View

TRAIN = "train "  # begins the label of a curve of training
LEAST_NAME = 4
COLUMNS = ("validation", "to first", "best", "train")
LEFT_OUT = ("train", "best", "to first")  # in this order where there is too little room


def table(view: View, curves: Sequence[Curve], width: int) -> list[Text]:
    """A heading, and a line for each run.

    Args:
        view: several runs.
        curves: those of the plot; their labels are the name of a run, after `TRAIN` for training.
        width: cells.
    """
    signs = dict(zip((c.label for c in curves), samples(curves, view.color), strict=True))
    rows = [_values(view, index) for index in range(len(view.runs))]
    columns = [name for name in COLUMNS if any(row[name] for row in rows)]
    names = [run.history.name for run in view.runs]
    while True:
        widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in columns}
        signed = "train" in columns and "validation" in columns
        room = width - 3 - sum(widths.values()) - 2 * len(columns) - 3 * signed
        droppable = [name for name in LEFT_OUT if name in columns and len(columns) > 1]
        if room >= min(max(map(cell_len, names)), 10) or not droppable:
            break
        columns.remove(droppable[0])
    room = max(LEAST_NAME, min(room, max(map(cell_len, names))))
    head = Text(" " * (room + 3), style="dim", no_wrap=True)
    lines = [head]
    for name in columns:
        head.append("  " + " " * (3 * (name == "train" and signed)) + name.rjust(widths[name]))
    for index, (name, row) in enumerate(zip(names, rows, strict=True)):
        color = view.color_of(index)
        alone = name not in signs
        line = Text(no_wrap=True)
        line.append(signs.get(name, signs.get(TRAIN + name, "  ")).ljust(2) + " ", color)
        style = "bold" if index == view.selection.run else "not bold"
        line.append_text(cut(Text(name, style=style), room))
        line.pad_right(room + 3 - line.cell_len)
        for column in columns:
            if column == "train" and signed:
                sign = "" if alone else signs.get(TRAIN + name, "")
                line.append("  " + sign.ljust(3), f"dim {color}")
                line.append(row[column].rjust(widths[column]))
            else:
                line.append("  " + (row[column] or "–").rjust(widths[column]))
        lines.append(cut(line, width))
    return lines


def shown(view: View, history: RunHistory, name: str) -> float:
    """The value of a series under the cursor, or the newest; nan where there is none."""
    at = view.selection.at
    return history.last(name) if at is None else value_at(points(history, name), at)


def _values(view: View, index: int) -> dict[str, str]:
    """The texts of a run's line, by column; "" where nothing is known."""
    history = view.runs[index].history
    return {
        "validation": _number(shown(view, history, "valid")),
        "to first": _signed(_to_first(view, index)),
        "best": _number(shown(view, history, "best")),
        "train": _number(shown(view, history, "train")),
    }


def _to_first(view: View, index: int) -> float:
    """The difference of validation to the first run, where both were validated."""
    if index == 0:
        return math.nan
    if view.runs[0].history.scoring != view.runs[index].history.scoring:
        return math.nan  # of another kind: bits and accuracies have no difference
    first, own = (points(view.runs[run].history, "valid") for run in (0, index))
    at = view.selection.at
    both = np.intersect1d(first.step, own.step)
    if not len(first) or not len(own) or (at is None and not len(both)):
        return math.nan
    step = both[-1] if at is None else at
    return value_at(own, float(step)) - value_at(first, float(step))


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else ""


def _signed(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else ""
