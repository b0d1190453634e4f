"""What panels of curves share: series as curves against steps or time, and a cursor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.text import Text
from textual.binding import Binding, BindingType

from simsmoe_cli.monitor.draw.axes import Axis, axis
from simsmoe_cli.monitor.draw.canvas import Curve, line_plot
from simsmoe_cli.monitor.panels.panel import Panel
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.monitor.state.series import Points

Array = NDArray[np.float64]

_CURSOR = Binding.Group("Cursor", compact=True)

CURSOR_BINDINGS: list[BindingType] = [
    Binding(
        "left",
        "cursor(-1)",
        "Left",
        id="curves.left",
        group=_CURSOR,
        tooltip="A cursor on the curves tells their exact values: left",
    ),
    Binding(
        "right",
        "cursor(1)",
        "Right",
        id="curves.right",
        group=_CURSOR,
        tooltip="Cursor on the curves: right",
    ),
    Binding(
        "shift+left",
        "cursor(-10)",
        "Left",
        id="curves.fast_left",
        show=False,
        tooltip="Cursor on the curves: ten columns left",
    ),
    Binding(
        "shift+right",
        "cursor(10)",
        "Right",
        id="curves.fast_right",
        show=False,
        tooltip="Cursor on the curves: ten columns right",
    ),
    Binding(
        "home",
        "cursor(-1000000)",
        "First",
        id="curves.home",
        show=False,
        tooltip="Cursor on the first step",
    ),
    Binding(
        "end",
        "cursor(1000000)",
        "Last",
        id="curves.end",
        show=False,
        tooltip="Cursor on the last step",
    ),
]


@dataclass(frozen=True)
class TimeUnit:
    """What time on the x axis is counted in."""

    name: str
    seconds: float


class CurvePanel(Panel):
    """A panel whose curves stand against steps or time, with a cursor at a step."""

    def points(self, history: RunHistory, name: str) -> Points:
        """The points of a series; none where there is no such series."""
        if name in history.series:
            return history.series[name].points()
        nothing = np.empty(0)
        return Points(nothing, nothing, nothing, nothing, nothing)

    def began(self, history: RunHistory) -> float:
        """Time of the first step; nan where unknown."""
        times = self.points(history, "train").time
        known = times[np.isfinite(times)]
        return float(known[0]) if known.size else math.nan

    def time_unit(self) -> TimeUnit:
        """Minutes for short runs, hours for others."""
        spans = [run.history.last_time - self.began(run.history) for run in self.runs]
        longest = max((span for span in spans if math.isfinite(span)), default=0.0)
        return TimeUnit("hours", 3600.0) if longest >= 2 * 3600 else TimeUnit("minutes", 60.0)

    @property
    def x_label(self) -> str:
        return self.time_unit().name if self.selection.by_time else "step"

    def x_of(self, history: RunHistory, points: Points) -> Array:
        """Where points stand on the x axis."""
        if not self.selection.by_time:
            return points.step
        return (points.time - self.began(history)) / self.time_unit().seconds

    def curve(self, history: RunHistory, name: str, label: str, style: str) -> Curve | None:
        """A series as a curve; None where it has no points."""
        points = self.points(history, name)
        if not len(points):
            return None
        return Curve(label, self.x_of(history, points), points.mean, points.low, points.high, style)

    def x_axis(self) -> Axis:
        """An axis on which all runs fit."""
        return axis(
            [self.x_of(run.history, self.points(run.history, "train")) for run in self.runs]
        )

    def course(
        self, prefix: str, title: str, width: int, height: int, y_axis: Axis | None = None
    ) -> list[Text]:
        """A number of each layer over training, that of the chosen layer bright.

        Args:
            prefix: of the names of its series, before the layer's number.
            title: in the legend.
            width, height: cells to fill.
            y_axis: None fits it to the curves.
        """
        others, chosen = [], []
        layer = self.selection.layer
        for index, run in enumerate(self.runs):
            color = self.color_of(index)
            if len(self.runs) == 1:
                others += [
                    self.curve(run.history, prefix + name, "", f"dim {color}")
                    for name in run.history.named(prefix)
                    if name != str(layer)
                ]
            label = f"layer {self.chosen_label}" if index == 0 else ""
            chosen.append(self.curve(run.history, f"{prefix}{layer}", label, f"bold {color}"))
        curves = [curve for curve in (*others, *chosen) if curve is not None]
        if not curves:
            return []
        at = self.selection.step
        return line_plot(
            curves,
            width,
            height,
            y_axis=y_axis,
            title=title,
            x_label=self.x_label,
            cursor=None if at is None or self.selection.by_time else float(at),
        )

    def cursor_x(self) -> float | None:
        """Where the cursor stands on the x axis, by the chosen run."""
        at = self.selection.at
        if at is None or not self.selection.by_time:
            return at
        history = self.dashboard.chosen.history
        points = self.points(history, "train")
        if not len(points):
            return None
        return float(self.x_of(history, points)[nearest(points.step, at)])

    def action_cursor(self, columns: int) -> None:
        """Move the cursor by columns of cells, at least one point."""
        steps = self.points(self.dashboard.chosen.history, "train").step
        if not len(steps):
            return
        at = self.selection.at
        if at is None:
            self.dashboard.choose(at=float(steps[-1] if columns < 0 else steps[0]))
            return
        by = columns * max(1, len(steps) // max(1, self.content_size.width))
        there = max(0, min(len(steps) - 1, nearest(steps, at) + by))
        self.dashboard.choose(at=float(steps[there]))


def nearest(steps: Array, at: float) -> int:
    """Index of the step nearest to `at`."""
    return int(np.abs(steps - at).argmin())


def value_at(points: Points, at: float) -> float:
    """The last value not after a step; nan where there is none."""
    here = np.flatnonzero((points.step <= at) & np.isfinite(points.mean))
    return float(points.mean[here[-1]]) if here.size else math.nan
