"""The router's load: layers against experts, with each layer's CV and dead experts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType

from simsmoe_cli.monitor.draw.heatmap import Layout, heat_map, layout
from simsmoe_cli.monitor.draw.scales import Scale, color_bar, magnitude_scale
from simsmoe_cli.monitor.panels.columns import GAP, beside, filled, fitting
from simsmoe_cli.monitor.panels.curves import CurvePanel
from simsmoe_cli.monitor.panels.panel import PROBE_BINDINGS
from simsmoe_cli.monitor.state.probes import RouterFrame, RouterLayer

LEAST_WIDTH = 22
CV_WIDTH = 6
DEAD_WIDTH = 10
LEAST_COURSE = 7  # lines


class Load(CurvePanel):
    """A heat map of loads for each run, 1 being a fair share."""

    TITLE = "Router load"
    SHORT = "Load"
    ABOUT = (
        "What each expert is given, as a multiple of a fair share: 1 where all have the same. A "
        "row is a layer. CV is the standard deviation of the load over its mean, 0 at perfect "
        "balance. Dead experts, marked ×, get less than 1% of a fair share. h and l move a cursor "
        "over the experts of the chosen layer."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        *PROBE_BINDINGS,
        Binding(
            "shift+left,h",
            "expert(-1)",
            "Expert left",
            id="load.left",
            show=False,
            tooltip="Cursor on the experts: left",
        ),
        Binding(
            "shift+right,l",
            "expert(1)",
            "Expert right",
            id="load.right",
            show=False,
            tooltip="Cursor on the experts: right",
        ),
    ]

    def __init__(self) -> None:
        super().__init__(id="load")
        self._maps: list[tuple[int, int, int, Layout]] = []  # run, x, y, where its cells stand

    def shown(self, run: int) -> RouterFrame | None:
        """The probe of a run that is looked at."""
        frames = self.runs[run].history.routers
        if not len(frames):
            return None
        step = self.selection.step
        frame = frames[len(frames) - 1 if step is None else frames.at(step)]
        return frame if any(len(layer.load) for layer in frame.layers) else None

    def draw(self, width: int, height: int) -> Sequence[Text]:
        self._maps = []
        several = len(self.runs) > 1
        shown, room = fitting(len(self.runs), self.selection.run, width, LEAST_WIDTH)
        found = {run: self.shown(run) for run in shown}
        shares = [
            layer.load * len(layer.load)
            for frame in found.values()
            if frame is not None
            for layer in frame.layers
        ]
        if not shares:
            return self.waiting("probe of the router", width, height)
        scale = magnitude_scale(np.concatenate(shares))
        high = max(1, height - several - 2)
        blocks = []
        for place, run in enumerate(shown):
            block = []
            if several:
                block.append(self.run_heading(run, room))
            frame = found[run]
            if frame is None:
                block.append(Text("no probe", style="dim"))
            else:
                block += self._map(run, frame, scale, place * (room + GAP), several, room, high)
            blocks.append(block)
        lines = beside(blocks, room)
        left = height - len(lines) - 3
        if left >= LEAST_COURSE:
            lines += [Text(), *self.course("load_cv.", "load CV over training", width, left)]
        lines = filled(lines, height - 2)
        lines.append(self._detail(width))
        bar = color_bar(scale, min(30, width // 2), digits=1)
        lines.append(Text("share ", style="dim").append_text(bar).append(" of a fair one", "dim"))
        self._tell_where()
        return lines

    def _map(
        self,
        run: int,
        frame: RouterFrame,
        scale: Scale,
        x: int,
        several: bool,
        width: int,
        height: int,
    ) -> list[Text]:
        layers = frame.layers
        experts = max(len(layer.load) for layer in layers)
        share_RC = np.full((len(layers), experts), np.nan, dtype=np.float32)
        for row, layer in enumerate(layers):
            share_RC[row, : len(layer.load)] = layer.load * len(layer.load)
        labels = [self.runs[run].history.label(layer.layer) for layer in layers]
        beside_map = CV_WIDTH + (DEAD_WIDTH if width >= 60 else 0)
        place = layout(
            len(layers),
            experts,
            width - beside_map,
            height,
            label_width=max(map(len, labels)) + 1,
        )
        self._maps.append((run, x, int(several), place))
        rows = [layer.layer for layer in layers]
        on_line = _on_lines(place)
        for first, last in on_line.values():
            if self.selection.layer in rows[first:last]:  # the label of a line is its first row's
                labels[first] = f"›{self.runs[run].history.label(self.selection.layer)}"
        selected = None
        if self.selection.expert is not None and self.selection.layer in rows:
            selected = (rows.index(self.selection.layer), min(self.selection.expert, experts - 1))
        lines = heat_map(
            share_RC,
            scale,
            place,
            row_labels=labels,
            column_labels=[str(expert) for expert in range(experts)],
            selected=selected,
        )
        room = width - place.width
        head = "  CV"
        if any(last - first > 1 for first, last in on_line.values()):
            head = " max CV" if room > CV_WIDTH else " max"
        for y, (first, last) in on_line.items():
            self._annotate(lines[y], layers[first:last], place, room, len(head))
        if place.top:
            lines[0].pad_right(place.width - lines[0].cell_len)
            lines[0].append(head if room < len(head) + 8 else f"{head}  dead", "dim")
        return lines

    def _annotate(
        self, line: Text, layers: Sequence[RouterLayer], place: Layout, room: int, cv_width: int
    ) -> None:
        """CV, under a heading of that width, and dead experts at the right of a line, and a cross
        on the dead.

        Of several layers on a line it is the highest CV, and how many experts are dead.
        """
        theme = self.app.current_theme
        dead = layers[0].dead if len(layers) == 1 else ()
        if place.block[1] == 1:
            for expert in dead:
                if expert < place.columns:
                    at = place.place_of(0, expert)[0]
                    cross = "×".center(place.wide)
                    line.plain = line.plain[:at] + cross + line.plain[at + place.wide :]
        line.pad_right(place.width - line.cell_len)
        known = [layer.load_cv for layer in layers if math.isfinite(layer.load_cv)]
        over = max(known, default=0.0) > self.dashboard.thresholds.load_cv_above
        cv = f" {max(known):.2f}" if known else "    –"
        line.append(cv.rjust(cv_width), f"bold {theme.error}" if over else "")
        number = sum(len(layer.dead) for layer in layers)
        if number:
            left = max(0, room - max(CV_WIDTH, cv_width))
            named = " " + ",".join(map(str, dead))
            told = named if dead and len(named) <= left else f" {number}×"
            line.append(told[:left], f"bold {theme.error}")

    def _detail(self, width: int) -> Text:
        frame = self.shown(self.selection.run)
        layer = next(
            (x for x in (frame.layers if frame else ()) if x.layer == self.selection.layer), None
        )
        if layer is None or not len(layer.load):
            return Text(f"layer {self.chosen_label}: no load known", style="dim")
        line = Text(f"layer {self.chosen_label}: ", style="bold", no_wrap=True)
        expert = self.selection.expert
        if expert is not None and expert < len(layer.load):
            part = float(layer.load[expert])
            line.append(
                f"expert {expert} has {100 * part:.2f}% of the slots, "
                f"{part * len(layer.load):.3f} of a fair share",
                "not bold",
            )
        else:
            dead = f"dead {','.join(map(str, layer.dead))}" if layer.dead else "none dead"
            entropy = f"{layer.entropy_nats:.2f}" if math.isfinite(layer.entropy_nats) else "–"
            cv = f"{layer.load_cv:.3f}" if math.isfinite(layer.load_cv) else "–"
            line.append(f"CV {cv}, {dead}, routing entropy {entropy} nats", "not bold")
        line.truncate(width, overflow="ellipsis")
        return line

    def _tell_where(self) -> None:
        frame = self.shown(self.selection.run)
        if frame is None:
            self.below = ""
            return
        dead = sum(len(layer.dead) for layer in frame.layers)
        newest = " newest" if self.selection.step is None else ""
        self.below = f"step {frame.step:,}{newest} · {dead or 'none'} dead"

    def action_expert(self, by: int) -> None:
        frame = self.shown(self.selection.run)
        if frame is None:
            return
        experts = max(len(layer.load) for layer in frame.layers)
        here = self.selection.expert
        self.dashboard.choose(expert=0 if here is None else max(0, min(experts - 1, here + by)))

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None:
            return
        for run, x, y, place in self._maps:
            cell = place.cell_at(offset.x - x, offset.y - y)
            frame = self.shown(run)
            if cell is not None and frame is not None:
                layer = frame.layers[cell[0]].layer
                self.dashboard.choose(run=run, layer=layer, expert=cell[1])


def _on_lines(place: Layout) -> dict[int, tuple[int, int]]:
    """Of each line of a heat map that has a label: its first row, and the one after its last."""
    found: dict[int, tuple[int, int]] = {}
    for row in range(place.rows):
        y = place.place_of(row, 0)[1] + (place.high - 1) // 2
        found[y] = (found[y][0] if y in found else row, row + 1)
    return found
