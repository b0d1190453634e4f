"""Parts of all panels of curves: series as curves against steps or time, and a cursor."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from simsmoe_cli.monitor.draw.axes import Axis, axis
from simsmoe_cli.monitor.draw.canvas import Curve, line_plot
from simsmoe_cli.monitor.panels.panel import Key
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.monitor.state.series import Points
from simsmoe_cli.monitor.view import View

Array = NDArray[np.float64]
LEAST_COURSE = 7  # lines
SMOOTHING = (0, 5, 20, 100)  # points


def points(history: RunHistory, name: str) -> Points:
    """The points of a series; empty if there is no such series."""
    if name in history.series:
        return history.series[name].points()
    nothing = np.empty(0)
    return Points(nothing, nothing, nothing, nothing, nothing)


def began(history: RunHistory) -> float:
    """Time of the first step; nan where unknown."""
    times = points(history, "train").time
    known = times[np.isfinite(times)]
    return float(known[0]) if known.size else math.nan


def _time_unit(view: View) -> tuple[str, float]:
    """The unit of time and its seconds: minutes for short runs, hours for others."""
    spans = [run.history.last_time - began(run.history) for run in view.runs]
    longest = max((span for span in spans if math.isfinite(span)), default=0.0)
    return ("hours", 3600.0) if longest >= 2 * 3600 else ("minutes", 60.0)


def x_label(view: View) -> str:
    """The label of the x axis."""
    return _time_unit(view)[0] if view.selection.by_time else "step"


def x_of(view: View, history: RunHistory, of: Points) -> Array:
    """Where points are on the x axis."""
    if not view.selection.by_time:
        return of.step
    return (of.time - began(history)) / _time_unit(view)[1]


def curve(
    view: View,
    history: RunHistory,
    name: str,
    label: str,
    style: str,
    *,
    rank: int = 0,
    smooth: bool = False,
) -> Curve | None:
    """A series as a curve; None where it has no points.

    Args:
        name: of the series.
        label, style, rank: of the curve.
        smooth: whether it is smoothed if the user asked for that.
    """
    found = points(history, name)
    if not len(found):
        return None
    x = x_of(view, history, found)
    if smooth and view.selection.smooth:
        return Curve(
            label, x, running_mean(found.mean, view.selection.smooth), style=style, rank=rank
        )
    return Curve(label, x, found.mean, found.low, found.high, style, rank)


def running_mean(values: Array, over: int) -> Array:
    """The mean of the last `over` values at each; undefined ones do not count."""
    known = np.isfinite(values)
    sums = np.cumsum(np.where(known, values, 0.0))
    counts = np.cumsum(known).astype(np.float64)
    for running in (sums, counts):
        running[over:] -= running[:-over].copy()
    return np.where(known & (counts > 0), sums / np.maximum(counts, 1), np.nan)


def smoothing_words(view: View) -> str:
    """How curves are smoothed; "" where they are not."""
    return f"mean of {view.selection.smooth} points" if view.selection.smooth else ""


def next_smoothing(view: View, _width: int = 0) -> View:
    """Smooth more, or not at all after the most."""
    here = SMOOTHING.index(view.selection.smooth)
    return view.choose(smooth=SMOOTHING[(here + 1) % len(SMOOTHING)])


def resume_marks(view: View) -> list[tuple[float, str]]:
    """Where runs were resumed with other settings, on the x axis, and the colour of the run."""
    found = []
    for index, run in enumerate(view.runs):
        steps: list[float] = list(run.history.changes)
        if view.selection.by_time and steps:
            train = points(run.history, "train")
            x = x_of(view, run.history, train)
            steps = [x[_nearest(train.step, step)] for step in steps] if len(train) else []
        found += [(float(step), view.color_of(index)) for step in steps]
    return found


def x_axis(view: View) -> Axis:
    """An axis on which all runs fit."""
    return axis([x_of(view, run.history, points(run.history, "train")) for run in view.runs])


def layer_courses(view: View, prefix: str, title: str, width: int, height: int) -> list[Text]:
    """An empty line and a plot of one number of each layer over training, the chosen layer bright;
    nothing if there is too little room or no such series.

    Without colours, and of several runs, only the chosen layer is drawn.

    Args:
        prefix: of the names of its series, before the layer's number.
        title: in the legend.
        width, height: cells to fill, with the empty line.
    """
    if height <= LEAST_COURSE:
        return []
    others, chosen = [], []
    layer = view.selection.layer
    for index, run in enumerate(view.runs):
        color = view.color_of(index)
        if view.color and not view.several:
            others += [
                curve(view, run.history, prefix + name, "", f"dim {color}")
                for name in run.history.named(prefix)
                if name != str(layer)
            ]
        label = f"layer {view.layer_label}" if index == 0 else ""
        chosen.append(curve(view, run.history, f"{prefix}{layer}", label, f"bold {color}", rank=1))
    curves = [found for found in (*others, *chosen) if found is not None]
    if not curves:
        return []
    at = view.selection.step
    plot = line_plot(
        curves,
        width,
        height - 1,
        title=title,
        x_label=x_label(view),
        cursor=None if at is None or view.selection.by_time else float(at),
        color=view.color,
    )
    return [Text(), *plot]


def layer_series(view: View, prefix: str) -> list[str]:
    """The series of one number of each layer, of all runs."""
    names = {prefix + name for run in view.runs for name in run.history.named(prefix)}
    return sorted(names, key=lambda name: (len(name), name))


def cursor_x(view: View) -> float | None:
    """Where the cursor is on the x axis, by the chosen run."""
    at = view.selection.at
    if at is None or not view.selection.by_time:
        return at
    found = points(view.chosen, "train")
    if not len(found):
        return None
    return float(x_of(view, view.chosen, found)[_nearest(found.step, at)])


def move_cursor(view: View, width: int, columns: int) -> View:
    """Move the cursor by columns of cells, at least one point."""
    steps = points(view.chosen, "train").step
    if not len(steps):
        return view
    at = view.selection.at
    if at is None:
        return view.choose(at=float(steps[-1] if columns < 0 else steps[0]))
    by = columns * max(1, len(steps) // max(1, width))
    there = max(0, min(len(steps) - 1, _nearest(steps, at) + by))
    return view.choose(at=float(steps[there]))


def _nearest(steps: Array, at: float) -> int:
    """Index of the step nearest to `at`."""
    return int(np.abs(steps - at).argmin())


def value_at(found: Points, at: float) -> float:
    """The last value up to a step; nan if there is none."""
    here = np.flatnonzero((found.step <= at) & np.isfinite(found.mean))
    return float(found.mean[here[-1]]) if here.size else math.nan


CURVE_KEYS = (
    *(
        Key(keys, partial(move_cursor, columns=columns), label, help, "Cursor" if label else "")
        for keys, columns, label, help in (
            ("left", -1, "Left", "A cursor on the curves that shows their exact values: left"),
            ("right", 1, "Right", "Cursor on the curves: right"),
            ("shift+left", -10, "", "Cursor on the curves: ten columns left"),
            ("shift+right", 10, "", "Cursor on the curves: ten columns right"),
            ("home", -1_000_000, "", "Cursor on the first step"),
            ("end", 1_000_000, "", "Cursor on the last step"),
        )
    ),
    Key("e", next_smoothing, "Smooth", "Smooth the curves of training: over 5, 20 or 100 points"),
)
