"""Mean CKA by layer: now, and over training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.text import Text

from simsmoe_cli.monitor.draw.axes import Axis
from simsmoe_cli.monitor.draw.bars import bar, sparkline
from simsmoe_cli.monitor.draw.canvas import Curve, line_plot
from simsmoe_cli.monitor.panels.curves import layer_courses, layer_series
from simsmoe_cli.monitor.panels.pairs import value_text
from simsmoe_cli.monitor.panels.panel import PROBE_KEYS, Panel, Picture, waiting
from simsmoe_cli.monitor.state.probes import SimilarityFrame
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.monitor.view import View

SPARK = 16
Frames = Sequence[SimilarityFrame | None]


def draw(view: View, width: int, height: int) -> Picture:
    """A bar for each layer, and its course over training; for too many layers, one curve."""
    frames = [view.probe(run.history.similarities) for run in view.runs]
    layers = _layers(view)
    if not layers:
        return waiting(view, "probe of similarity", width, height)
    if len(layers) * len(view.runs) + 1 <= height and width >= 30:
        lines = _rows(view, frames, layers, width, height)
    else:
        lines = _curves(view, frames, width, height)
    frame = frames[view.selection.run]
    if frame is None:
        return Picture(lines)
    mean = value_text(frame.means.get(view.selection.layer, math.nan))
    return Picture(lines, f"{view.step_text(frame.step)} · layer {view.layer_label}: {mean}")


def _layers(view: View) -> list[int]:
    """The layers that the shown probe of any run has."""
    frames = [view.probe(run.history.similarities) for run in view.runs]
    return sorted({layer for frame in frames if frame is not None for layer in frame.means})


def _rows(view: View, frames: Frames, layers: Sequence[int], width: int, height: int) -> list[Text]:
    names = [[run.history.label(layer) for run in view.runs] for layer in layers]
    label = max(len(name) for layer in names for name in layer) + 8
    spark = SPARK if width >= 52 else 8
    room = width - label - 6 - spark - 2
    course = "over training" if spark == SPARK else "course"
    head = "layer".ljust(label) + "mean CKA".ljust(room + 8) + course
    lines = [Text(head, style="dim")]
    for layer, name in zip(layers, names, strict=True):
        for index, frame in enumerate(frames):
            mean = frame.means.get(layer, math.nan) if frame is not None else math.nan
            chosen = layer == view.selection.layer
            text = f"layer {name[index]}" if not index or name[index] != name[0] else ""
            line = Text(("›" if chosen and not index else " ") + text.ljust(label - 1))
            line.stylize("bold" if chosen else "")
            limit = view.chosen.thresholds.cka_above
            line.append_text(_bar(view, mean, limit, room, view.color_of(index)))
            line.append(f" {mean:5.2f}" if math.isfinite(mean) else "     –")
            line.append("▲ " if mean > limit else "  ", f"bold {view.palette.error}")
            series = view.runs[index].history.series.get(f"cka.{layer}")
            values = np.empty(0) if series is None else series.points().mean
            line.append(sparkline(values, spark), view.color_of(index))
            lines.append(line)
    left = height - len(lines)
    return lines + layer_courses(view, "cka.", "mean CKA over training", width, left)


def _bar(view: View, mean: float, limit: float, room: int, color: str) -> Text:
    """A bar in the colour of its run, with a line where the threshold is."""
    filled = bar(mean, room)
    line = Text(filled.ljust(room, "·"))
    line.stylize(color, 0, len(filled))
    line.stylize(f"dim {color}", len(filled), room)
    at = round(limit * room)
    if 0 < at < room:
        line.plain = line.plain[:at] + "│" + line.plain[at + 1 :]
        behind = f" on {color}" if at < len(filled) else ""
        line.stylize(f"not dim {view.palette.error}{behind}", at, at + 1)
    return line


def _curves(view: View, frames: Frames, width: int, height: int) -> list[Text]:
    curves = []
    for index, frame in enumerate(frames):
        history = view.runs[index].history
        if frame is None:
            continue
        first = history.similarities[0]
        color = view.color_of(index)
        if first.step < frame.step:
            curves.append(_curve(history, first, "", f"dim {color}"))
        curves.append(_curve(history, frame, history.name if view.several else "", color))
    values = np.concatenate([curve.y for curve in curves])
    low = min(0.0, float(np.nanmin(values))) if np.isfinite(values).any() else 0.0
    return line_plot(
        curves,
        width,
        height,
        y_axis=Axis(low, 1.0),
        title="mean CKA",
        x_label="layer",
        cursor=_x(view.chosen, view.selection.layer),
        color=view.color,
    )


def _x(history: RunHistory, layer: int) -> float:
    """Where a layer is on an axis of layers."""
    label = history.label(layer)
    return float(label) if label.isdecimal() else float(layer)


def _curve(history: RunHistory, frame: SimilarityFrame, label: str, style: str) -> Curve:
    layers = np.array([_x(history, layer) for layer in frame.means], dtype=np.float64)
    return Curve(label, layers, np.array(list(frame.means.values())), style=style)


def _height(view: View, _width: int) -> int:
    return 10 + min(40, len(_layers(view)) * len(view.runs))


PANEL = Panel(
    id="layers",
    title="Similarity by layer",
    short="Layers",
    about=(
        "Mean pairwise CKA of each layer at the probe that is shown; at the right, its course over "
        "training. The line across the bars is the threshold of alerts; ▲ marks a mean above it. "
        "A layer's number is its index among all sub-layers of the model, from 0; of a foreign "
        "model, that in the name of its module. "
        "If there are many layers, x is the layer: the bright curve is this probe, the dim one "
        "the first."
    ),
    draw=draw,
    keys=PROBE_KEYS,
    height=_height,
    series=lambda view: ["cka", *layer_series(view, "cka.")],
)
