"""Shared tokens against similarity: the pairs of one layer (the paper's Figure 4a)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from simsmoe_cli.monitor.draw.axes import Axis, axis
from simsmoe_cli.monitor.draw.canvas import scatter
from simsmoe_cli.monitor.panels.columns import beside, filled, fitting
from simsmoe_cli.monitor.panels.pairs import PairPanel, share_text, value_text
from simsmoe_cli.monitor.state.probes import LayerSimilarity
from simsmoe_cli.run.correlation import pearson, ranks

LEAST_WIDTH = 22
FEW = 500  # pairs that are drawn as points, not as dots
Array = NDArray[np.float64]


class Shared(PairPanel):
    """A point for each pair; the cursor is that of the pairwise map."""

    TITLE = "Shared tokens and CKA"
    SHORT = "Shared"
    ABOUT = (
        "Each point is a pair of experts of the chosen layer: the part of the tokens that both "
        "were given, against their CKA. The paper finds that pairs which share many tokens grow "
        "alike; Pearson's r and Spearman's rho say how far that holds here. The pair under the "
        "cursor is marked; m walks the pairs from the most alike on."
    )

    def __init__(self) -> None:
        super().__init__(id="shared")

    def draw(self, width: int, height: int) -> Sequence[Text]:
        shown, room = fitting(len(self.runs), self.selection.run, width, LEAST_WIDTH)
        found = {run: self.shown(run) for run in shown}
        clouds = {run: cloud(probe[1]) for run, probe in found.items() if probe is not None}
        if not clouds:
            return self.waiting("probe of similarity", width, height)
        y = np.concatenate([cka for _, cka in clouds.values()])
        low = min(0.0, float(np.nanmin(y))) if np.isfinite(y).any() else 0.0
        x_axis = axis([np.append(share, 0.0) for share, _ in clouds.values()])
        several = len(self.runs) > 1
        blocks = []
        for run in shown:
            block = []
            if several:
                block.append(self.run_heading(run, room))
            probe = found[run]
            if probe is None:
                block.append(Text("no probe of this layer", style="dim"))
            else:
                high = max(1, height - 1 - several)
                block += self._plot(run, probe[1], x_axis, Axis(low, 1.0), room, high)
            blocks.append(block)
        lines = filled(beside(blocks, room), height - 1)
        lines.append(self._detail(width))
        self._tell_where()
        return lines

    def _plot(
        self, run: int, layer: LayerSimilarity, x_axis: Axis, y_axis: Axis, width: int, height: int
    ) -> list[Text]:
        share, cka = cloud(layer)
        pair = self.pair_of(layer.experts)
        marked = [] if pair is None else [index_of(layer.experts, pair)]
        return scatter(
            share,
            cka,
            width,
            height,
            x_axis=x_axis,
            y_axis=y_axis,
            x_label="% shared",
            style=self.color_of(run),
            mark="•" if len(cka) <= FEW else "",
            highlight=marked,
            highlight_style=f"bold {self.app.current_theme.accent}",
        )

    def _detail(self, width: int) -> Text:
        """The pair under the cursor, else the correlations of each run."""
        line = Text(no_wrap=True)
        pair = self.selection.pair
        for run in range(len(self.runs)):
            probe = self.shown(run)
            if probe is None:
                continue
            layer = probe[1]
            if len(self.runs) > 1:
                line.append("  " if run else "").append("● ", self.color_of(run))
            here = self.pair_of(layer.experts)
            if pair is not None and here is not None:
                name = f"{here[0]} and {here[1]}: " if len(self.runs) == 1 else ""
                line.append(name, "bold").append(f"CKA {value_text(float(layer.cka[here]))}, ")
                line.append(share_text(float(layer.shared[here]), short=len(self.runs) > 1))
            else:
                share, cka = cloud(layer)
                linear, ranked = pearson(share, cka), pearson(ranks(share), ranks(cka))
                line.append(f"r {_signed(linear)}  rho {_signed(ranked)}")
                if len(self.runs) == 1:
                    defined = int(np.isfinite(share + cka).sum())
                    line.append(f"  ({defined} of {len(cka)} pairs defined)", "dim")
        line.truncate(width, overflow="ellipsis")
        return line

    def _tell_where(self) -> None:
        probe = self.shown(self.selection.run)
        where = f"layer {self.chosen_label}"
        if probe is not None:
            newest = " newest" if self.selection.step is None else ""
            where += f" · step {probe[0]:,}{newest}"
        self.below = where


def cloud(layer: LayerSimilarity) -> tuple[Array, Array]:
    """Shared tokens in percent and CKA of all pairs, [P] each; nan where undefined."""
    upper = np.triu_indices(layer.experts, 1)
    share = 100 * layer.shared[upper].astype(np.float64)
    return share, layer.cka[upper].astype(np.float64)


def index_of(experts: int, pair: tuple[int, int]) -> int:
    """Where a pair stands among all pairs, as `cloud` orders them."""
    low, high = sorted(pair)
    return low * experts - low * (low + 1) // 2 + high - low - 1


def _signed(value: float) -> str:
    return f"{value:+.2f}" if np.isfinite(value) else "undefined"
