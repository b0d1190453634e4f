"""Mean CKA by layer: now, and over training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from rich.text import Text
from textual.binding import BindingType

from simsmoe_cli.monitor.draw.axes import Axis
from simsmoe_cli.monitor.draw.bars import sparkline
from simsmoe_cli.monitor.draw.canvas import Curve, line_plot
from simsmoe_cli.monitor.panels.curves import CurvePanel
from simsmoe_cli.monitor.panels.pairs import value_text
from simsmoe_cli.monitor.panels.panel import PROBE_BINDINGS
from simsmoe_cli.monitor.state.probes import SimilarityFrame
from simsmoe_cli.monitor.state.run import RunHistory

SPARK = 16
LEAST_COURSE = 7  # lines


class Layers(CurvePanel):
    """A bar and its course for each layer; a curve over layers where there are too many."""

    TITLE = "Similarity by layer"
    SHORT = "Layers"
    ABOUT = (
        "Mean pairwise CKA of each layer at the probe looked at, and its course over training at "
        "the right. A layer's number is its place among all sub-layers of the model, from 0. Where "
        "layers are many they stand along x: the bright curve is this probe, the dim one the first."
    )
    BINDINGS: ClassVar[list[BindingType]] = [*PROBE_BINDINGS]

    def __init__(self) -> None:
        super().__init__(id="layers")

    def draw(self, width: int, height: int) -> Sequence[Text]:
        frames = [self._shown(run) for run in range(len(self.runs))]
        known = [frame for frame in frames if frame is not None]
        layers = sorted({layer for frame in known for layer in frame.means})
        if not layers:
            return self.waiting("probe of similarity", width, height)
        self._tell_where(frames[self.selection.run])
        rows = len(layers) * len(self.runs) + 1
        if rows <= height and width >= 30:
            return self._rows(frames, layers, width, height)
        return self._curves(frames, width, height)

    def _shown(self, run: int) -> SimilarityFrame | None:
        frames = self.runs[run].history.similarities
        if not len(frames):
            return None
        step = self.selection.step
        return frames[len(frames) - 1 if step is None else frames.at(step)]

    def _rows(
        self,
        frames: Sequence[SimilarityFrame | None],
        layers: Sequence[int],
        width: int,
        height: int,
    ) -> list[Text]:
        names = [[run.history.label(layer) for run in self.runs] for layer in layers]
        label = max(len(name) for layer in names for name in layer) + 8
        spark = SPARK if width >= 52 else 8
        room = width - label - 6 - spark - 2
        course = "over training" if spark == SPARK else "course"
        head = "layer".ljust(label) + "mean CKA".ljust(room + 8) + course
        lines = [Text(head, style="dim")]
        for layer, name in zip(layers, names, strict=True):
            for index, frame in enumerate(frames):
                mean = frame.means.get(layer, math.nan) if frame is not None else math.nan
                chosen = layer == self.selection.layer
                text = f"layer {name[index]}" if not index or name[index] != name[0] else ""
                line = Text(("›" if chosen and not index else " ") + text.ljust(label - 1))
                line.stylize("bold" if chosen else "")
                line.append_text(self._bar(mean, room, index))
                line.append(f" {mean:5.2f}  " if math.isfinite(mean) else "     –  ")
                line.append(self._course(index, layer, spark), self.color_of(index))
                lines.append(line)
        left = height - len(lines) - 1
        if left >= LEAST_COURSE:
            lines += [Text(), *self.course("cka.", "mean CKA over training", width, left)]
        return lines

    def _bar(self, mean: float, room: int, run: int) -> Text:
        eighths = round(max(0.0, min(1.0, mean)) * room * 8) if math.isfinite(mean) else 0
        bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
        text = Text(bar, style=self.color_of(run))
        over = mean > self.dashboard.thresholds.cka_above
        if over:
            text.stylize(self.app.current_theme.error or "")
        return text.append("·" * (room - len(bar)), "dim not bold")

    def _course(self, run: int, layer: int, width: int) -> str:
        series = self.runs[run].history.series.get(f"cka.{layer}")
        return sparkline(series.points().mean, width) if series is not None else ""

    def _curves(
        self, frames: Sequence[SimilarityFrame | None], width: int, height: int
    ) -> list[Text]:
        curves = []
        for index, frame in enumerate(frames):
            history = self.runs[index].history
            if frame is None:
                continue
            first = history.similarities[0]
            color = self.color_of(index)
            if first.step < frame.step:
                curves.append(_curve(history, first, "", f"dim {color}"))
            name = history.name if len(self.runs) > 1 else ""
            curves.append(_curve(history, frame, name, color))
        values = np.concatenate([curve.y for curve in curves])
        low = min(0.0, float(np.nanmin(values))) if np.isfinite(values).any() else 0.0
        return line_plot(
            curves,
            width,
            height,
            y_axis=Axis(low, 1.0),
            title="mean CKA",
            x_label="layer",
            cursor=_x(self.dashboard.chosen.history, self.selection.layer),
        )

    def _tell_where(self, frame: SimilarityFrame | None) -> None:
        if frame is None:
            self.below = ""
            return
        layer = self.selection.layer
        mean = value_text(frame.means.get(layer, math.nan))
        newest = " newest" if self.selection.step is None else ""
        self.below = f"step {frame.step:,}{newest} · layer {self.chosen_label}: {mean}"


def _x(history: RunHistory, layer: int) -> float:
    """Where a layer stands on an axis of layers."""
    return float(history.label(layer))


def _curve(history: RunHistory, frame: SimilarityFrame, label: str, style: str) -> Curve:
    layers = np.array([_x(history, layer) for layer in frame.means], dtype=np.float64)
    return Curve(label, layers, np.array(list(frame.means.values())), style=style)
