"""Figures of load, routing entropy and effective rank."""

from __future__ import annotations

import numpy as np

from simsmoe_cli.collapse.findings import Findings, mean_of
from simsmoe_cli.collapse.measure.correlation import nan_array
from simsmoe_cli.collapse.show.figures.heat_maps import (
    RATIO_COLOURS,
    RATIO_SCALE,
    expert_ticks,
    heat_map,
    log_ratio,
    ratio_bar,
)
from simsmoe_cli.collapse.show.figures.style import (
    LABEL,
    Drawing,
    beside_each_other,
    by_layer,
    finish,
    in_a_row,
    muted,
    new_figure,
    place_of,
    subjects,
)
from simsmoe_cli.collapse.show.format import number, of_all_text, origin, per_run
from simsmoe_cli.errors import printable

WRITTEN_UP_TO = 10  # experts; with more, numbers do not fit into their cells


def load_figure(main: Findings, against: Findings | None) -> Drawing:
    """Load per expert."""
    runs = subjects(main, against)
    rows = max(len(findings.layers) for findings, _, _ in runs)
    panel = 0.75 + min(max(0.2 * rows, 0.5), 2.2)
    figure = new_figure(panel * len(runs))
    grid = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
    said = []
    for (findings, name, _), axes in zip(runs, grid, strict=True):
        experts = max(layer.experts for layer in findings.layers)
        fair = np.full((len(findings.layers), experts), np.nan)
        for row, layer in enumerate(findings.layers):
            fair[row, : layer.experts] = nan_array([layer.load])[0] * layer.experts
        heat_map(axes, log_ratio(fair, np.ones_like(fair)), RATIO_COLOURS, RATIO_SCALE)
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
        names = [printable(layer.label, LABEL) for layer in findings.layers]
        axes.set_yticks(range(0, len(names), every), names[::every])
        expert_ticks(axes, range(experts), both=False)
        axes.set_ylabel("layer")
        if len(runs) > 1:
            axes.set_title(name, loc="left")
        count = findings.dead
        dead_said = "how many are dead is undefined" if count is None else f"{count:,} dead"
        known = [v for layer in findings.layers if (v := layer.load_max_over_mean) is not None]
        busiest = f", the busiest expert has {number(max(known), 2)} fair shares" if known else ""
        said.append((name, dead_said + busiest))
    grid[-1].set_xlabel("expert")
    ratio_bar(figure, list(grid))
    return Drawing(
        "load",
        "Who gets the tokens",
        "Load in fair shares: 1 is even. A cross: dead. Hatched: undefined.",
        figure,
        "routing",
        f"{per_run(said)} Null: 1. An expert below {main.settings.dead_below:.0%} of a fair share "
        f"is dead. Counted over n = {of_all_text(main)}, so there is no interval.",
    )


def entropy_figure(main: Findings, against: Findings | None) -> Drawing:
    """Routing entropy by layer."""
    runs = subjects(main, against)
    figure, axes = by_layer(runs, 2.4, "entropy of the router, nats")
    for index, (findings, name, colour) in enumerate(runs):
        layers = [place_of(index, layer, runs) for layer in findings.layers]
        for field, form in (("entropy_of_mean_nats", "s--"), ("entropy_nats", "o-")):
            values = nan_array([[getattr(layer, field) for layer in findings.layers]])[0]
            axes.plot(layers, values, form, color=colour, ms=4)
        axes.plot([], [], "o-", color=colour, ms=4, label=name)
        axes.plot(layers, [layer.entropy_max_nats for layer in findings.layers], ":", color=muted())
    most = [layer.entropy_max_nats for findings, *_ in runs for layer in findings.layers]
    finish(axes, runs)
    if max(most) > 0:
        axes.set_ylim(top=1.05 * max(most))
    return Drawing(
        "entropy",
        "How sure the router is, and how wide",
        "Circles: one token, low where it is sure. Squares: all tokens, high where all are used.",
        figure,
        "routing",
        f"Entropy of the router's softmax. Null: a router that knows nothing has ln N, at most "
        f"{number(max(most), 2)}, for both (dotted). n = {of_all_text(main)}; plain means, no "
        "interval.",
    )


def rank_figure(main: Findings, against: Findings | None) -> Drawing:
    """Effective rank of the experts' outputs by layer."""
    runs = subjects(main, against)
    figure, axes = by_layer(runs, 2.4, "effective rank")
    undefined = 0
    for index, (findings, name, colour) in enumerate(runs):
        for layer in findings.layers:
            middle = place_of(index, layer, runs) + beside_each_other(index, runs)
            ranks = nan_array([layer.effective_rank])[0]
            undefined += int(np.isnan(ranks).sum())
            axes.plot(
                middle + in_a_row(len(ranks), 0.16), ranks, ".", color=colour, ms=4, alpha=0.5
            )
            if (mean := mean_of(layer.effective_rank)) is not None:
                axes.plot([middle - 0.11, middle + 0.11], [mean] * 2, color=colour, lw=2.2)
        axes.plot([], [], color=colour, lw=2.2, label=name)
    finish(axes, runs)
    most = max(layer.effective_rank_max for findings, *_ in runs for layer in findings.layers)
    return Drawing(
        "effective-rank",
        "How many directions an expert's outputs use",
        "Effective rank: a point for each expert, a line at the mean of a layer.",
        figure,
        "similar",
        f"The most it can be is {most:,}; outputs that collapsed onto one direction have 1. n = "
        f"{main.settings.rank_rows:,} {main.text.unit}s of {origin(main.text)}; no interval and no "
        f"null were computed. {undefined} undefined.",
    )
