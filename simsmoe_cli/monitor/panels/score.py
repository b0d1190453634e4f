"""The score over training: train, validation and the best so far; several runs in one plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from simsmoe_cli.monitor.draw.axes import Axis, axis
from simsmoe_cli.monitor.draw.canvas import Curve, line_plot
from simsmoe_cli.monitor.panels.curves import (
    CURSOR_KEYS,
    cursor_x,
    curve,
    points,
    value_at,
    x_axis,
    x_label,
)
from simsmoe_cli.monitor.panels.panel import Key, Panel, Picture, shows_series, waiting
from simsmoe_cli.monitor.view import View

RANGES = ("", ", values of the later half", ", logarithmic")
# In the order of drawing: the best score is drawn first, under the validation it comes from.
PARTS = (("best", "best", 2), ("train", "train", 0), ("valid", "validation", 1))


def draw(view: View, width: int, height: int) -> Picture:
    """The scores; `view.scroll` is the range of y."""
    begun = [run.history.scoring for run in view.runs if run.history.total_events]
    name = " and ".join(sorted({scoring.name for scoring in begun})) or "BPC"
    title = name[:1].upper() + name[1:] + RANGES[view.scroll]
    curves = _several(view) if view.several else _one(view)
    if not curves:
        return replace(waiting(view, "training step", width, height), title=title)
    lines = line_plot(
        curves,
        width,
        height,
        x_axis=x_axis(view),
        y_axis=_late_axis(view, curves) if view.scroll == 1 else None,
        log_y=view.scroll == 2,
        x_label=x_label(view),
        cursor=cursor_x(view),
        color=view.color,
    )
    units = " and ".join(sorted({scoring.in_words for scoring in begun}))
    return Picture(lines, _reading(view) or units, title, scroll=view.scroll)


def _one(view: View) -> list[Curve]:
    history = view.runs[0].history
    found = [
        curve(view, history, name, label, view.color_of(color)) for name, label, color in PARTS
    ]
    return [curve for curve in found if curve is not None]


def _several(view: View) -> list[Curve]:
    """Curves of several runs: validation in the colour of its run, training in the same colour,
    dimmed."""
    train, valid = [], []
    for index, run in enumerate(view.runs):
        history, color = run.history, view.color_of(index)
        name = history.name
        valid.append(curve(view, history, "valid", name, f"bold {color}"))
        alone = valid[-1] is None
        label = name if alone else "" if view.color else f"{name} train"
        style = color if alone else f"dim {color}"
        train.append(curve(view, history, "train", label, style))
    return [curve for curve in (*train, *valid) if curve is not None]


def _late_axis(view: View, curves: Sequence[Curve]) -> Axis:
    """A y axis for the values in the later half of x."""
    x = x_axis(view)
    middle = (x.low + x.high) / 2
    return axis([np.asarray(curve.y)[np.asarray(curve.x) >= middle] for curve in curves])


def _reading(view: View) -> str:
    """The values under the cursor."""
    at = view.selection.at
    if at is None:
        return ""
    told = []
    for run in view.runs:
        history = run.history
        values = [
            f"{label} {value:.3f}"
            for name, label, _ in PARTS
            if math.isfinite(value := value_at(points(history, name), at))
            and (not view.several or name == "valid")
        ]
        name = f"{history.name} " if view.several else ""
        told.append(name + (" ".join(values) or "–"))
    return f"step {at:,.0f}: " + " · ".join(told)


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
        "runs, validation is drawn in the run's colour and training dim. y changes the range, so "
        "that a late difference is seen."
    ),
    draw=draw,
    depends_on=shows_series,
    keys=(
        *CURSOR_KEYS,
        Key(
            "y",
            next_range,
            "Range",
            "Range of y: all values, those of the later half, or logarithmic",
        ),
    ),
    wide=True,
)
