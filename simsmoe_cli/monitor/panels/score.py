"""The score over training: train, validation and the best so far; several runs in one plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from rich.text import Text

from simsmoe_cli.monitor.draw.axes import Axis, axis
from simsmoe_cli.monitor.draw.canvas import Curve, line_plot
from simsmoe_cli.monitor.panels import score_legend
from simsmoe_cli.monitor.panels.curves import (
    CURVE_KEYS,
    cursor_x,
    curve,
    resume_marks,
    smoothing_words,
    x_axis,
    x_label,
)
from simsmoe_cli.monitor.panels.panel import Key, Panel, Picture, shows_series, waiting
from simsmoe_cli.monitor.view import View

RANGES = ("", ", values of the later half", ", logarithmic")
# Series, name and colour of one run; validation hides the best, which comes from it.
PARTS = (("best", "best", 2), ("train", "train", 0), ("valid", "validation", 1))
LEAST_PLOT = 7  # lines that the legend of several runs leaves for their curves


def draw(view: View, width: int, height: int) -> Picture:
    """The scores; `view.scroll` is the range of y."""
    begun = [run.history.scoring for run in view.runs if run.history.total_events]
    name = " and ".join(sorted({scoring.name for scoring in begun})) or "BPC"
    title = name[:1].upper() + name[1:] + RANGES[view.scroll]
    curves = _several(view) if view.several else _one(view)
    if not curves:
        return replace(waiting(view, "training step", width, height), title=title)
    table: list[Text] = []
    if view.several:
        room = height - LEAST_PLOT
        table = score_legend.table(view, curves, width)
        if len(table) > room:
            table = table[1 : 1 + max(1, room)]
    lines = line_plot(
        curves,
        width,
        height - len(table),
        x_axis=x_axis(view),
        y_axis=_late_axis(view, curves) if view.scroll == 1 else None,
        log_y=view.scroll == 2,
        legend=not view.several,
        x_label=x_label(view),
        cursor=cursor_x(view),
        marks=resume_marks(view),
        color=view.color,
    )
    at = view.selection.at
    units = " and ".join(sorted({scoring.in_words for scoring in begun}))
    told = [units if at is None else f"step {at:,.0f}", smoothing_words(view)]
    note = " · ".join(words for words in told if words)
    return Picture([*table, *lines], note, title, scroll=view.scroll)


def _one(view: View) -> list[Curve]:
    """Curves of one run, with their values in the legend."""
    history = view.runs[0].history
    found = []
    for rank, (name, label, color) in enumerate(PARTS):
        value = score_legend.shown(view, history, name)
        told = f"{label} {value:.3f}" if math.isfinite(value) else label
        style = view.color_of(color)
        found.append(curve(view, history, name, told, style, rank=rank, smooth=name == "train"))
    return [curve for curve in found if curve is not None]


def _several(view: View) -> list[Curve]:
    """Curves of several runs: validation in the colour of its run, training in the same colour,
    dimmed. The label says whose it is."""
    train, valid = [], []
    for index, run in enumerate(view.runs):
        history, color = run.history, view.color_of(index)
        name = history.name
        valid.append(curve(view, history, "valid", name, f"bold {color}", rank=1))
        alone = valid[-1] is None
        style = color if alone else f"dim {color}"
        label = score_legend.TRAIN + name
        train.append(curve(view, history, "train", label, style, smooth=True))
    return [curve for curve in (*train, *valid) if curve is not None]


def _late_axis(view: View, curves: Sequence[Curve]) -> Axis:
    """A y axis for the values in the later half of x."""
    x = x_axis(view)
    middle = (x.low + x.high) / 2
    return axis([np.asarray(curve.y)[np.asarray(curve.x) >= middle] for curve in curves])


def next_range(view: View, _width: int) -> View:
    """The next range of y."""
    return replace(view, scroll=(view.scroll + 1) % len(RANGES))


PANEL = Panel(
    id="score",
    title="BPC",
    short="BPC",
    about=(
        "Bits per character (lower is better) against steps or time: of training batches, of the "
        "validation split, and the best validation so far. Where tokens are not characters, the "
        "loss in nats per token; of a classifier, its accuracy (higher is better). Of several "
        "runs, validation is drawn in the run's colour and training dim; the table has the newest "
        "values, or those under the cursor, and the difference of validation to the first run at "
        "the last step that both have. A dotted line is where a run was resumed with other "
        "settings. y changes the range, so that a late difference is seen; e smooths training."
    ),
    draw=draw,
    depends_on=shows_series,
    keys=(
        *CURVE_KEYS,
        Key(
            "y",
            next_range,
            "Range",
            "Range of y: all values, those of the later half, or logarithmic",
        ),
    ),
    height=lambda view, _width: 16 + len(view.runs) * view.several,
    wide=True,
    series=lambda _: [name for name, _, _ in PARTS],
)
