"""BPC over training: train, validation and the best so far; several runs in one plot."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import ClassVar

import numpy as np
from rich.text import Text
from textual.binding import Binding, BindingType

from simsmoe_cli.monitor.draw.axes import Axis, axis
from simsmoe_cli.monitor.draw.canvas import Curve, line_plot
from simsmoe_cli.monitor.panels.curves import CURSOR_BINDINGS, CurvePanel, value_at

RANGES = ("", ", values of the later half", ", logarithmic")
# In the order in which they are drawn: what is best lies under the validation it comes from.
PARTS = (("best", "best", 2), ("train", "train", 0), ("valid", "validation", 1))


class Score(CurvePanel):
    """The score a run is judged by: bits per character, loss where a token is none, accuracy."""

    TITLE = "BPC"
    SHORT = "BPC"
    ABOUT = (
        "Bits per character (lower is better) against steps or time: of training batches, of the "
        "validation split, and the best validation so far. Where a token is no character, the "
        "loss in nats per token; of a classifier, its accuracy (higher is better). Of several "
        "runs, validation is drawn in the run's colour and training dim. y changes the range, so "
        "that a late difference is seen."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        *CURSOR_BINDINGS,
        Binding(
            "y",
            "range",
            "Range",
            id="score.range",
            tooltip="Range of y: all values, those of the later half, or logarithmic",
        ),
    ]

    def __init__(self) -> None:
        super().__init__(id="score")
        self._range = 0

    def fingerprint(self) -> Hashable:
        selection = self.selection
        looked_at = (selection.run, selection.at, selection.by_time)
        return (tuple(run.version for run in self.runs), looked_at, self._range)

    def draw(self, width: int, height: int) -> Sequence[Text]:
        names = {run.history.scoring.name for run in self.runs if run.history.total_events}
        units = {run.history.scoring.in_words for run in self.runs if run.history.total_events}
        title = " and ".join(sorted(names)) or "BPC"
        title = title[:1].upper() + title[1:]
        self.above = title + RANGES[self._range]
        curves = self._one() if len(self.runs) == 1 else self._several()
        if not curves:
            return self.waiting("training step", width, height)
        self.below = self._reading() or " and ".join(sorted(units))
        return line_plot(
            curves,
            width,
            height,
            x_axis=self.x_axis(),
            y_axis=self._late_axis(curves) if self._range == 1 else None,
            log_y=self._range == 2,
            x_label=self.x_label,
            cursor=self.cursor_x(),
        )

    def _one(self) -> list[Curve]:
        history = self.runs[0].history
        found = [
            self.curve(history, name, label, self.curve_colors[color])
            for name, label, color in PARTS
        ]
        return [curve for curve in found if curve is not None]

    def _several(self) -> list[Curve]:
        train, valid = [], []
        for index, run in enumerate(self.runs):
            color = self.color_of(index)
            train.append(self.curve(run.history, "train", "", f"dim {color}"))
            valid.append(self.curve(run.history, "valid", run.history.name, f"bold {color}"))
            if valid[-1] is None and train[-1] is not None:
                train[-1] = self.curve(run.history, "train", run.history.name, color)
        return [curve for curve in (*train, *valid) if curve is not None]

    def _late_axis(self, curves: Sequence[Curve]) -> Axis:
        """A y axis for what is right of the middle."""
        x = self.x_axis()
        middle = (x.low + x.high) / 2
        late = [
            np.asarray(values)[np.asarray(curve.x) >= middle]
            for curve in curves
            for values in (curve.y,)
        ]
        return axis(late)

    def _reading(self) -> str:
        """The values under the cursor."""
        at = self.selection.at
        if at is None:
            return ""
        told = []
        for run in self.runs:
            history = run.history
            values = [
                f"{label} {value:.3f}"
                for name, label, _ in PARTS
                if math.isfinite(value := value_at(self.points(history, name), at))
                and (len(self.runs) == 1 or name == "valid")
            ]
            name = f"{history.name} " if len(self.runs) > 1 else ""
            told.append(name + (" ".join(values) or "–"))
        return f"step {at:,.0f}: " + " · ".join(told)

    def action_range(self) -> None:
        self._range = (self._range + 1) % len(RANGES)
        self.update()
