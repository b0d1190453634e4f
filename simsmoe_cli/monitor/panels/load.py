"""The router's load: layers against experts, with each layer's CV and dead experts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from rich.text import Text

from simsmoe_cli.errors import listed
from simsmoe_cli.monitor.draw.heatmap import Layout, heat_map, layout
from simsmoe_cli.monitor.draw.scales import Scale, color_bar, magnitude_scale
from simsmoe_cli.monitor.draw.text import cut, decimal, filled
from simsmoe_cli.monitor.panels.curves import layer_courses, layer_series
from simsmoe_cli.monitor.panels.panel import (
    PROBE_KEYS,
    Key,
    Panel,
    Picture,
    run_grid,
    waiting,
)
from simsmoe_cli.monitor.state.probes import RouterFrame, RouterLayer
from simsmoe_cli.monitor.view import View

CV_WIDTH = 6
DEAD_WIDTH = 10
MOST_DEAD = 6  # whose numbers are told


def shown(view: View, run: int) -> RouterFrame | None:
    """The probe of a run that is shown; None if it holds no load."""
    frame = view.probe(view.runs[run].history.routers)
    return frame if frame and any(len(layer.load) for layer in frame.layers) else None


def draw(view: View, width: int, height: int) -> Picture:
    """A heat map of loads for each run, 1 being a fair share."""
    below = 2
    runs = run_grid(view, width, height - below)
    found = {run: shown(view, run) for run in runs.runs}
    shares = [
        layer.load * len(layer.load)
        for frame in found.values()
        if frame is not None
        for layer in frame.layers
    ]
    if not shares:
        return waiting(view, "probe of the router", width, height)
    scale = magnitude_scale(np.concatenate(shares))

    def draw_run(run: int, frame: RouterFrame, high: int) -> tuple[list[Text], Layout]:
        return _map(view, run, frame, scale, runs.width, high)

    lines, maps = runs.beside(view, found, draw_run, missing=lambda _: "no probe")
    left = height - below - len(lines)
    lines += layer_courses(view, "load_cv.", "load CV over training", width, left)
    lines = filled(lines, height - below)
    lines.append(_detail(view, width))
    bar = color_bar(scale, min(30, width // 2), digits=1, color=view.color)
    scale_line = Text("load ", style="dim").append_text(bar).append(" of a fair share", "dim")
    lines.append(cut(scale_line, width))
    frame = shown(view, view.selection.run)
    if frame is None:
        return Picture(lines, maps=maps)
    dead = "dead not judged yet" if frame.dead is None else f"{frame.dead or 'none'} dead"
    return Picture(lines, f"{view.step_text(frame.step)} · {dead}", maps=maps)


def _map(
    view: View, run: int, frame: RouterFrame, scale: Scale, width: int, height: int
) -> tuple[list[Text], Layout]:
    layers = frame.layers
    experts = _experts(frame)
    share_RC = np.full((len(layers), experts), np.nan, dtype=np.float32)
    for row, layer in enumerate(layers):
        share_RC[row, : len(layer.load)] = layer.load * len(layer.load)
    history = view.runs[run].history
    labels = [history.label(layer.layer) for layer in layers]
    beside_map = CV_WIDTH + (DEAD_WIDTH if width >= 60 else 0)
    grid = layout(
        len(layers),
        experts,
        width - beside_map,
        height,
        label_width=max(map(len, labels)) + 1,
        halves=view.color,
    )
    rows = [layer.layer for layer in layers]
    on_line = _rows_by_line(grid)
    chosen = view.selection.layer
    for first, last in on_line.values():
        if chosen in rows[first:last]:  # the label of a line is its first row's
            labels[first] = f"›{history.label(chosen)}"
    selected = None
    if view.selection.expert is not None and chosen in rows:
        selected = (rows.index(chosen), min(view.selection.expert, experts - 1))
    lines = heat_map(
        share_RC,
        scale,
        grid,
        row_labels=labels,
        column_labels=[str(expert) for expert in range(experts)],
        selected=selected,
        color=view.color,
    )
    room = width - grid.width
    head = "  CV"
    if any(last - first > 1 for first, last in on_line.values()):
        head = " max CV" if room > CV_WIDTH else " max"
    for y, (first, last) in on_line.items():
        _annotate(view, lines[y], layers[first:last], grid, room, len(head))
    if grid.top:
        lines[0].pad_right(grid.width - lines[0].cell_len)
        lines[0].append(head if room < len(head) + 8 else f"{head}  dead", "dim")
    return lines, grid


def _annotate(
    view: View, line: Text, layers: Sequence[RouterLayer], grid: Layout, room: int, cv_width: int
) -> None:
    """Append CV, under a heading of width `cv_width`, and dead experts to a line of the map, and
    cross out the cells of dead experts.

    If a line shows several layers, it gets their highest CV and the number of dead experts.
    """
    dead = (layers[0].dead or ()) if len(layers) == 1 else ()
    if grid.drawn[1] == grid.columns:
        for expert in dead:
            if expert < grid.columns:
                at = grid.position_of(0, expert)[0]
                cross = "×".center(grid.wide)
                line.plain = line.plain[:at] + cross + line.plain[at + grid.wide :]
    line.pad_right(grid.width - line.cell_len)
    alarm = f"bold {view.palette.error}"
    known = [layer.load_cv for layer in layers if math.isfinite(layer.load_cv)]
    over = max(known, default=0.0) > view.chosen.thresholds.load_cv_above
    cv = f" {max(known):.2f}" if known else "    –"
    line.append(cv.rjust(cv_width), alarm if over else "")
    number = sum(len(layer.dead or ()) for layer in layers)
    if number:
        left = max(0, room - max(CV_WIDTH, cv_width))
        named = " " + ",".join(map(str, dead))
        told = named if dead and len(named) <= left else f" {number}×"
        line.append(told[:left], alarm)


def _detail(view: View, width: int) -> Text:
    """The chosen expert, else the chosen layer."""
    frame = shown(view, view.selection.run)
    layers = frame.layers if frame else ()
    layer = next((layer for layer in layers if layer.layer == view.selection.layer), None)
    if layer is None or not len(layer.load):
        return Text(f"layer {view.layer_label}: no load known", style="dim")
    line = Text(f"layer {view.layer_label}: ", style="bold", no_wrap=True)
    expert = view.selection.expert
    if expert is not None and expert < len(layer.load):
        part = float(layer.load[expert])
        line.append(
            f"expert {expert} has {100 * part:.2f}% of the slots, "
            f"{part * len(layer.load):.3f} of a fair share",
            "not bold",
        )
    else:
        dead = "none dead"
        if layer.dead is None:
            dead = "too few slots to say which are dead"
        elif layer.dead:
            dead = f"{len(layer.dead)} dead: {listed(layer.dead, MOST_DEAD)}"
        if layer.slots:
            dead += f" of {layer.slots:,} slots"
        entropy = decimal(layer.entropy_nats, 2)
        cv = decimal(layer.load_cv)
        line.append(f"CV {cv}, entropy {entropy} nats, {dead}", "not bold")
    return cut(line, width)


def _experts(frame: RouterFrame) -> int:
    return max(len(layer.load) for layer in frame.layers)


def _rows_by_line(grid: Layout) -> dict[int, tuple[int, int]]:
    """For each labelled line of a heat map: its first row, and the row after its last."""
    found: dict[int, tuple[int, int]] = {}
    for row in range(grid.rows):
        y = grid.position_of(row, 0)[1] + (grid.high - 1) // 2
        found[y] = (found[y][0] if y in found else row, row + 1)
    return found


def _move_expert(view: View, _width: int, by: int) -> View:
    frame = shown(view, view.selection.run)
    if frame is None:
        return view
    here = view.selection.expert
    return view.choose(expert=0 if here is None else max(0, min(_experts(frame) - 1, here + by)))


def _click(view: View, run: int, row: int, column: int) -> View:
    frame = shown(view, run)
    if frame is None or row >= len(frame.layers):
        return view
    return view.choose(run=run, layer=frame.layers[row].layer, expert=column)


def _height(view: View, _width: int) -> int:
    frame = shown(view, view.selection.run)
    return 11 + min(36, len(frame.layers) if frame is not None else 1)


PANEL = Panel(
    id="load",
    title="Router load",
    short="Load",
    about=(
        "How many slots each expert is given, as a multiple of a fair share: 1 where all have the "
        "same. A row is a layer. CV is the standard deviation of the load over its mean, 0 at "
        "perfect balance. Dead experts, marked ×, get less than 1% of a fair share of so many "
        "training tokens that chance does not decide. h and l move a cursor over the experts of "
        "the chosen layer."
    ),
    draw=draw,
    keys=(
        *PROBE_KEYS,
        Key("shift+left,h", partial(_move_expert, by=-1), "", "Cursor on the experts: left"),
        Key("shift+right,l", partial(_move_expert, by=1), "", "Cursor on the experts: right"),
    ),
    click=_click,
    height=_height,
    series=lambda view: ["load_cv", *layer_series(view, "load_cv.")],
)
