"""Pairwise CKA of the experts of one layer, at one probe (METHODS: debiased linear CKA)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.text import Text
from textual import events

from simsmoe_cli.monitor.draw.heatmap import Layout, heat_map, layout
from simsmoe_cli.monitor.draw.scales import Scale, color_bar, similarity_scale
from simsmoe_cli.monitor.panels.columns import GAP, beside, filled, fitting
from simsmoe_cli.monitor.panels.pairs import PairPanel, most_alike, share_text, value_text
from simsmoe_cli.monitor.state.probes import Matrix

LEAST_WIDTH = 22


class Cka(PairPanel):
    """A heat map of experts against experts for each run."""

    TITLE = "Pairwise CKA"
    SHORT = "CKA"
    ABOUT = (
        "How alike the outputs of two experts are on the same tokens: debiased linear CKA, 1 for "
        "the same up to rotation and scale, about 0 for unrelated ones, slightly negative by "
        "chance; – where it is undefined. Arrow keys walk layers and the probes of training; the "
        "cursor, moved by shift and arrows or h j k l, tells a pair's exact value. A layer where "
        "many pairs are close to 1 has collapsed."
    )

    def __init__(self) -> None:
        super().__init__(id="cka")
        self._maps: list[tuple[int, int, int, Layout]] = []  # run, x, y, where its cells stand

    def draw(self, width: int, height: int) -> Sequence[Text]:
        self._maps = []
        several = len(self.runs) > 1
        shown, room = fitting(len(self.runs), self.selection.run, width, LEAST_WIDTH)
        found = {run: self.shown(run) for run in shown}
        matrices = [probe[1].cka for probe in found.values() if probe is not None]
        if not matrices:
            return self.waiting("probe of similarity", width, height)
        scale = similarity_scale(np.concatenate([matrix.ravel() for matrix in matrices]))
        high = max(1, height - several - 2)
        blocks = []
        for place, run in enumerate(shown):
            probe = found[run]
            told = f"step {probe[0]:,}" if probe is not None else ""
            block = [self.run_heading(run, room, told)] if several else []
            if probe is None:
                block.append(Text("no probe of this layer", style="dim"))
            else:
                x = place * (room + GAP)
                block += self._map(run, probe[1].cka, scale, x, several, room, high)
            blocks.append(block)
        lines = filled(beside(blocks, room), height - 2)
        lines.append(self._detail(width))
        lines.append(self._scale_and_time(scale, width))
        self._tell_where()
        return lines

    def _map(
        self, run: int, cka: Matrix, scale: Scale, x: int, several: bool, width: int, height: int
    ) -> list[Text]:
        experts = len(cka)
        labels = [str(expert) for expert in range(experts)]
        place = layout(experts, experts, width, height, label_width=len(labels[-1]))
        self._maps.append((run, x, int(several), place))
        return heat_map(
            cka,
            scale,
            place,
            row_labels=labels,
            column_labels=labels,
            masked_RC=np.eye(experts, dtype=bool),
            selected=self.pair_of(experts),
        )

    def _detail(self, width: int) -> Text:
        """The pair under the cursor, or the most alike one, in each run."""
        line = Text(no_wrap=True)
        pair = self.selection.pair
        if pair is not None:
            line.append(f"experts {pair[0]} and {pair[1]}: ", "bold").append("CKA ")
        for run in range(len(self.runs)):
            probe = self.shown(run)
            if probe is None:
                continue
            layer = probe[1]
            here = self.pair_of(layer.experts) if pair is not None else most_alike(layer.cka, 0)
            if here is None:
                continue
            line.append("  " if len(self.runs) > 1 and run else "")
            if len(self.runs) > 1:
                line.append("● ", self.color_of(run))
            if pair is None:
                line.append("most alike " if not line.plain.strip("● ") else "", "dim")
                line.append(f"{here[0]} and {here[1]}: ", "dim")
            line.append(value_text(float(layer.cka[here])))
            if len(self.runs) == 1 and pair is not None:
                line.append(f", {share_text(float(layer.shared[here]))}", "dim")
        line.truncate(width, overflow="ellipsis")
        return line

    def _scale_and_time(self, scale: Scale, width: int) -> Text:
        bar = color_bar(scale, min(30, width // 2))
        line = Text("CKA ", style="dim").append_text(bar)
        frames = self.dashboard.chosen.history.similarities
        room = min(40, width - line.cell_len - 14)
        if len(frames) > 1 and room >= 6:
            step = self.selection.step
            at = len(frames) - 1 if step is None else frames.at(step)
            dot = round(at / (len(frames) - 1) * (room - 1))
            line.append("   ").append("─" * dot, "dim")
            line.append("●", self.app.current_theme.primary or "")
            line.append("─" * (room - 1 - dot), "dim")
            line.append(f" {at + 1}/{len(frames)}", "dim")
        return line

    def _tell_where(self) -> None:
        probe = self.shown(self.selection.run)
        if probe is None:
            self.below = f"layer {self.chosen_label}"
            return
        step, layer = probe
        newest = " newest" if self.selection.step is None else ""
        self.below = (
            f"layer {self.chosen_label} · step {step:,}{newest} · mean {value_text(layer.mean)}"
        )

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None:
            return
        for run, x, y, place in self._maps:
            cell = place.cell_at(offset.x - x, offset.y - y)
            if cell is not None and cell[0] != cell[1]:
                self.dashboard.choose(run=run, pair=cell)
