"""Figures of how tokens are spread over experts, and of what each expert's outputs span."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.colors import Normalize

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.show.figures.style import (
    LABEL,
    MUTED,
    Drawing,
    as_array,
    colour_bar,
    from_zero,
    heat_map,
    layer_axis,
    legend_above,
    new_figure,
    subjects,
)
from simsmoe_cli.collapse.show.format import named, number, origin, short
from simsmoe_cli.collapse.show.tables import dead_experts

LOAD_COLOURS = matplotlib.colormaps["PuOr_r"]
WRITTEN_UP_TO = 10  # experts: more of them, and numbers do not fit their cells


def load_figure(main: Findings, against: Findings | None) -> Drawing:
    """Load per expert."""
    runs = subjects(main, against)
    scale = Normalize(-2, 2)
    rows = max(len(findings.layers) for findings, _, _ in runs)
    panel = 0.75 + min(max(0.2 * rows, 0.5), 2.2)
    figure = new_figure(panel * len(runs))
    grid = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
    said = []
    for (findings, name, _), axes in zip(runs, grid, strict=True):
        experts = max(layer.experts for layer in findings.layers)
        fair = np.full((len(findings.layers), experts), np.nan)
        for row, layer in enumerate(findings.layers):
            fair[row, : layer.experts] = as_array([layer.load])[0] * layer.experts
        heat_map(axes, np.log2(np.maximum(fair, 1e-9)), LOAD_COLOURS, scale)
        for row, layer in enumerate(findings.layers):
            dead = layer.dead or []
            axes.plot(dead, [row] * len(dead), "x", color="#ffffff", ms=4, mew=1.2)
            if experts <= WRITTEN_UP_TO + 2:
                for expert, value in enumerate(fair[row]):
                    if not np.isnan(value) and expert not in dead:
                        light = 0.4 < value < 2.6
                        axes.text(
                            expert,
                            row,
                            number(value, 2),
                            ha="center",
                            va="center",
                            fontsize=6,
                            color="#000000" if light else "#ffffff",
                        )
        every = max(1, -(-len(findings.layers) // 12))
        names = [short(layer.label, LABEL) for layer in findings.layers]
        axes.set_yticks(range(0, len(names), every), names[::every])
        step = max(1, -(-experts // 16))
        axes.set_xticks(range(0, experts, step), [str(i) for i in range(0, experts, step)])
        axes.set_ylabel("layer")
        if len(runs) > 1:
            axes.set_title(name, loc="left")
        count = dead_experts(findings)
        dead_said = "how many are dead is undefined" if count is None else f"{count:,} dead"
        known = [v for layer in findings.layers if (v := layer.load_max_over_mean) is not None]
        busiest = f", the busiest expert {number(max(known), 2)} times its share" if known else ""
        said.append((name, dead_said + busiest))
    grid[-1].set_xlabel("expert")
    bar = colour_bar(figure, LOAD_COLOURS, scale, list(grid), ticks=[-2, -1, 0, 1, 2])
    bar.ax.set_yticklabels(["¼", "½", "1", "2", "4"])
    return Drawing(
        "load",
        "Who gets the tokens",
        f"Load of each expert in units of a fair share, the null being 1; a cross marks a dead "
        f"expert (below {main.settings.dead_below:.0%} of it), hatching what is undefined. "
        f"{named(said)} A count over n = "
        f"{main.text.tokens:,} {main.text.unit}s of {origin(main.text)}, so there "
        f"is no interval.",
        figure,
    )


def entropy_figure(main: Findings, against: Findings | None) -> Drawing:
    """Routing entropy by layer."""
    figure = new_figure(2.4)
    axes = figure.add_subplot()
    for findings, name, colour in subjects(main, against):
        layers = [layer.layer for layer in findings.layers]
        for values, form in (
            ([layer.entropy_of_mean_nats for layer in findings.layers], "s--"),
            ([layer.entropy_nats for layer in findings.layers], "o-"),
        ):
            drawn = np.array([np.nan if value is None else value for value in values])
            axes.plot(layers, drawn, form, color=colour, ms=4)
        axes.plot([], [], "o-", color=colour, ms=4, label=name)
    most = [layer.entropy_max_nats for layer in main.layers]
    axes.plot([layer.layer for layer in main.layers], most, ":", color=MUTED)
    layer_axis(axes, main.layers)
    axes.set_ylabel("entropy of the router, nats")
    from_zero(axes)
    if against is not None:
        legend_above(axes, 2)
    return Drawing(
        "entropy",
        "How sure the router is, and how widely it spreads",
        f"Circles: of one token, low where the router is sure of it. Squares: of the mean over "
        f"tokens, high where all experts are used. Null: a router that knows nothing has "
        f"ln N = {number(max(most), 2)} for both (dotted). n = {main.text.tokens:,} "
        f"{main.text.unit}s of {origin(main.text)}; plain means, no interval.",
        figure,
    )


def rank_figure(main: Findings, against: Findings | None) -> Drawing:
    """Effective rank of the experts' outputs by layer."""
    figure = new_figure(2.4)
    axes = figure.add_subplot()
    runs = subjects(main, against)
    undefined = 0
    for place, (findings, name, colour) in enumerate(runs):
        shift = (place - (len(runs) - 1) / 2) * 0.28
        for layer in findings.layers:
            ranks = np.array([np.nan if r is None else r for r in layer.effective_rank])
            undefined += int(np.isnan(ranks).sum())
            spread = np.linspace(-0.08, 0.08, len(ranks)) if len(ranks) > 1 else np.zeros(1)
            axes.plot(layer.layer + shift + spread, ranks, ".", color=colour, ms=4, alpha=0.5)
            if not np.isnan(ranks).all():
                axes.plot(
                    [layer.layer + shift - 0.11, layer.layer + shift + 0.11],
                    [np.nanmean(ranks)] * 2,
                    color=colour,
                    lw=2.2,
                )
        axes.plot([], [], color=colour, lw=2.2, label=name)
    layer_axis(axes, main.layers)
    axes.set_ylabel("effective rank")
    from_zero(axes)
    if against is not None:
        legend_above(axes, 2)
    most = max(layer.effective_rank_max for layer in main.layers)
    return Drawing(
        "effective-rank",
        "How many directions an expert's outputs use",
        f"One point for each expert, a line at the layer's mean; the most it can be is {most:,}, "
        f"and outputs that collapsed onto one direction have 1. n = "
        f"{main.settings.rank_rows:,} {main.text.unit}s of {origin(main.text)}; "
        f"no interval and no null were computed. {undefined} undefined.",
        figure,
    )
