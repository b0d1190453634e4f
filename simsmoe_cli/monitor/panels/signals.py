"""Signals of training as small plots: speed, learning rate, gradient norm, losses by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from rich.text import Text

from simsmoe_cli.monitor.draw.axes import Axis, short
from simsmoe_cli.monitor.draw.canvas import line_plot
from simsmoe_cli.monitor.draw.text import cut, side_by_side
from simsmoe_cli.monitor.panels.curves import (
    CURVE_KEYS,
    cursor_x,
    curve,
    points,
    resume_marks,
    smoothing_words,
    value_at,
    x_axis,
)
from simsmoe_cli.monitor.panels.panel import (
    GAP,
    Key,
    Panel,
    Picture,
    shows_series,
    waiting,
)
from simsmoe_cli.monitor.view import View

LEAST_WIDTH, LEAST_HEIGHT = 22, 6  # of a plot

# Names of series in the order of their plots, and their titles.
FIRST = {"tokens_per_s": "tokens/s", "lr": "learning rate", "grad_norm": "gradient norm"}
LAST = {
    "cka": "mean CKA",
    "cka_shared": "CKA on shared tokens",
    "load_cv": "load CV",
    "pairs.mean": "similarity of due pairs",
    "pairs.due": "pairs due per step",
    "step_ms": "ms per step",
    "machine.gpu_percent": "GPU, %",
    "machine.gpu_mb": "GPU memory, MB",
    "machine.cpu_percent": "CPU, % of a core",
    "machine.ram_mb": "memory, MB",
}


def draw(view: View, width: int, height: int) -> Picture:
    """As many plots as fit, from the row `view.scroll` on."""
    names = _names(view)
    if not names:
        return waiting(view, "training step", width, height)
    columns = _columns(width)
    rows = -(-len(names) // columns)
    seen = max(1, min(rows, height // LEAST_HEIGHT))
    scroll = max(0, min(view.scroll, rows - seen))
    first = scroll * columns
    shown = list(names.items())[first : first + seen * columns]
    cell = (width - GAP * (columns - 1)) // columns
    axis = x_axis(view)
    lines: list[Text] = []
    for row in range(seen):
        high = (height - len(lines)) // (seen - row)
        part = shown[row * columns : (row + 1) * columns]
        plots = [_plot(view, name, title, cell, high, axis) for name, title in part]
        lines += side_by_side(plots, cell, GAP)
    told = [f"{first + 1}–{first + len(shown)} of {len(names)}" if rows > seen else ""]
    told.append(smoothing_words(view))
    note = " · ".join(words for words in told if words)
    return Picture(lines, note, scroll=scroll)


def _columns(width: int) -> int:
    """Plots side by side."""
    return max(1, (width + GAP) // (LEAST_WIDTH + GAP))


def _names(view: View) -> dict[str, str]:
    """The series that exist, in order -> their titles."""
    present = {name for run in view.runs for name in run.history.series}
    named = dict(FIRST)
    for prefix, what in (("loss.", "{} loss"), ("metric.", "{}")):
        for name in sorted(present):
            if name.startswith(prefix):
                named[name] = what.format(name.removeprefix(prefix).replace("_", " "))
    named |= LAST
    return {name: title for name, title in named.items() if name in present}


def _plot(view: View, name: str, title: str, width: int, height: int, axis: Axis) -> list[Text]:
    curves, values = [], []
    at = view.selection.at
    for index, run in enumerate(view.runs):
        color = view.color_of(index)
        found = curve(view, run.history, name, "", color, smooth=True)
        if found is not None:
            curves.append(found)
            last = run.history.last(name)
            value = last if at is None else value_at(points(run.history, name), at)
            values.append((value, f"not bold {color}" if view.several else "not bold"))
    head = _head(title, values, width, 100 if view.several else 1000)
    plot = line_plot(
        curves,
        width,
        height - len(head),
        x_axis=axis,
        legend=False,
        cursor=cursor_x(view),
        marks=resume_marks(view),
        color=view.color,
    )
    return [*head, *plot]


def _head(title: str, values: Sequence[tuple[float, str]], width: int, parts: int) -> list[Text]:
    """The title and the values, which are never cut: they go on in further lines."""
    lines = [Text(title, style="bold", no_wrap=True)]
    for number, (value, style) in enumerate(values):
        text = _exact(value, parts)
        gap = "  " if number == 0 else " "
        if lines[-1].cell_len + len(gap) + len(text) > width:
            cut(lines[-1], width)
            lines.append(Text(no_wrap=True, style="bold"))
            gap = ""
        lines[-1].append(gap + text, style)
    return [cut(line, width) for line in lines]


def _exact(value: float, parts: int) -> str:
    """A number with an error of at most about one part in `parts`."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else short(value, abs(value) / parts)


def _scroll(view: View, _width: int, rows: int) -> View:
    return replace(view, scroll=max(0, view.scroll + rows))


def _height(view: View, width: int) -> int:
    return (LEAST_HEIGHT + 1) * -(-len(_names(view)) // _columns(width))


PANEL = Panel(
    id="signals",
    title="Signals of training",
    short="Signals",
    about=(
        "Throughput, learning rate, gradient norm, every loss by its name (nats, as reported, "
        "before its coefficient), mean CKA and load CV over layers, what similarity learning "
        "measures, what the router reports, and what the process takes of its machine. The newest "
        "value is beside each name; e smooths the curves."
    ),
    draw=draw,
    depends_on=shows_series,
    keys=(
        *CURVE_KEYS,
        Key("up", partial(_scroll, rows=-1), "Up", "Signals above", "Scroll"),
        Key("down", partial(_scroll, rows=1), "Down", "Signals below", "Scroll"),
    ),
    height=_height,
    wide=True,
    series=lambda view: list(_names(view)),
)
