"""Shared tokens against similarity: the pairs of one layer (the paper's Figure 4a)."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from simsmoe_cli.monitor.draw.axes import Axis, axis
from simsmoe_cli.monitor.draw.canvas import scatter
from simsmoe_cli.monitor.draw.text import cut, filled
from simsmoe_cli.monitor.panels import matrices, pairs
from simsmoe_cli.monitor.panels.panel import Panel, Picture, run_grid
from simsmoe_cli.monitor.state.probes import LayerSimilarity
from simsmoe_cli.monitor.view import View
from simsmoe_cli.run.correlation import pearson, ranks

FEW = 500  # pairs that are drawn as points, not as dots
Array = NDArray[np.float64]


def draw(view: View, width: int, height: int) -> Picture:
    """A point for each pair; the cursor is that of the pairwise map."""
    runs = run_grid(view, width, height - 1)
    found = {run: matrices.shown(view, run) for run in runs.runs}
    clouds = {run: cloud(probe[1]) for run, probe in found.items() if probe is not None}
    if not clouds:
        return pairs.no_matrices(view, width, height)
    y = np.concatenate([cka for _, cka in clouds.values()])
    low = min(0.0, float(np.nanmin(y))) if np.isfinite(y).any() else 0.0
    x_axis = axis([np.append(share, 0.0) for share, _ in clouds.values()])

    def draw_run(run: int, probe: matrices.Probe, high: int) -> tuple[list[Text], None]:
        return _plot(view, run, probe[1], (x_axis, Axis(low, 1.0)), runs.width, high), None

    lines, _ = runs.beside(view, found, draw_run, missing=partial(matrices.why_no_matrix, view))
    lines = filled(lines, height - 1)
    lines.append(_detail(view, width))
    where = f"layer {view.layer_label}"
    probe = matrices.shown(view, view.selection.run)
    return Picture(lines, where if probe is None else f"{where} · {view.step_text(probe[0])}")


def _plot(
    view: View, run: int, layer: LayerSimilarity, axes: tuple[Axis, Axis], width: int, height: int
) -> list[Text]:
    share, cka = cloud(layer)
    pair = pairs.pair_of(view, layer.experts)
    return scatter(
        share,
        cka,
        width,
        height,
        x_axis=axes[0],
        y_axis=axes[1],
        x_label="% shared",
        style=view.color_of(run),
        mark="•" if len(cka) <= FEW else "",
        highlight=[] if pair is None else [index_of(layer.experts, pair)],
        highlight_style=f"bold {view.palette.accent}",
    )


def _detail(view: View, width: int) -> Text:
    """The pair under the cursor, else the correlations of each run."""
    line = Text(no_wrap=True)
    for layer in pairs.told_of_each_run(view, line):
        pair = pairs.pair_of(view, layer.experts)
        if pair is not None:
            name = f"{pair[0]} and {pair[1]}: " if not view.several else ""
            line.append(name, "bold").append(f"CKA {pairs.value_text(float(layer.cka[pair]))}, ")
            line.append(pairs.share_text(float(layer.shared[pair]), short=view.several))
        else:
            share, cka = cloud(layer)
            linear, ranked = pearson(share, cka), pearson(ranks(share), ranks(cka))
            line.append(f"r {_signed(linear)}  rho {_signed(ranked)}")
            if not view.several:
                defined = int(np.isfinite(share + cka).sum())
                line.append(f"  ({defined} of {len(cka)} pairs defined)", "dim")
    return cut(line, width)


def cloud(layer: LayerSimilarity) -> tuple[Array, Array]:
    """Shared tokens in percent and CKA of all pairs, [P] each; nan where undefined."""
    upper = np.triu_indices(layer.experts, 1)
    share = 100 * layer.shared[upper].astype(np.float64)
    return share, layer.cka[upper].astype(np.float64)


def index_of(experts: int, pair: tuple[int, int]) -> int:
    """The index of a pair among all pairs, as `cloud` orders them."""
    low, high = sorted(pair)
    return low * experts - low * (low + 1) // 2 + high - low - 1


def _signed(value: float) -> str:
    return f"{value:+.2f}" if np.isfinite(value) else "undefined"


PANEL = Panel(
    id="shared",
    title="Shared tokens and CKA",
    short="Shared",
    about=(
        "Each point is a pair of experts of the chosen layer: the share of tokens that both "
        "were given, against their CKA. The paper finds that pairs which share many tokens become "
        "similar; Pearson's r and Spearman's rho say how far that holds here. The pair under the "
        "cursor is marked; m walks the pairs, the most similar first."
    ),
    draw=draw,
    keys=pairs.PAIR_KEYS,
)
