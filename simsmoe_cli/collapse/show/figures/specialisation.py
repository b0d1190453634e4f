"""Figures of what experts are for: domains, experts that work together, and routing over time."""

from __future__ import annotations

import numpy as np

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.measure.correlation import nan_array
from simsmoe_cli.collapse.show.figures.heat_maps import (
    RATIO_COLOURS,
    RATIO_SCALE,
    PairMap,
    expert_ticks,
    heat_map,
    log_ratio,
    map_order,
    order_words,
    ratio_bar,
    sheet,
)
from simsmoe_cli.collapse.show.figures.style import (
    LABEL,
    SERIES,
    Drawing,
    finish,
    layer_name,
    new_figure,
    step_axis,
)
from simsmoe_cli.collapse.show.format import of_all_text, origin
from simsmoe_cli.errors import printable

FEWEST_EXPECTED = 5  # shared tokens; of fewer, a ratio is noise
LAYERS_SHOWN = len(SERIES)  # each has a colour of its own


def coactivation_figure(main: Findings) -> Drawing | None:
    """Tokens that two experts share, over what their loads let expect; None where not measured."""
    layers = [layer for layer in main.layers if layer.shared_expected and layer.experts > 1]
    if not layers:
        return None
    maps = []
    for layer in layers:
        expected = nan_array(layer.shared_expected)
        expected[expected * main.text.tokens < FEWEST_EXPECTED] = np.nan
        ratio = log_ratio(nan_array(layer.shared), expected)
        maps.append(PairMap(layer_name(layer), ratio, map_order(nan_array(layer.cka))))
    by_cluster = any(order_words(pair_map.order) for pair_map in maps)
    figure, grid = sheet([("expert", maps)], RATIO_COLOURS, RATIO_SCALE, across=2)
    ratio_bar(figure, grid, shrink=0.7, aspect=30, pad=0.03)
    return Drawing(
        "co-activation",
        "Which experts work on the same tokens",
        "Shared tokens over what their loads let expect. Red: more. Hatched: too few to say.",
        figure,
        "routing",
        f"n = {of_all_text(main)}, all K experts of a token counted, so there is no interval. "
        f"Null: 1, experts combined at random. Pairs with fewer than "
        f"{FEWEST_EXPECTED} expected tokens are left out."
        + (" Experts are in the order of the maps of similarity." if by_cluster else ""),
    )


def domains_figure(main: Findings) -> Drawing | None:
    """Share of each domain that an expert receives, over its share of all; None with one domain."""
    layers = [layer for layer in main.layers if layer.domain_share and layer.frequency]
    names = [domain.name for domain in main.domains]
    if len(names) < 2 or not layers:
        return None
    figure = new_figure(0.3 + (0.45 + 0.16 * len(names)) * len(layers))
    grid = figure.subplots(len(layers), 1, squeeze=False)[:, 0]
    for layer, axes in zip(layers, grid, strict=True):
        rows = nan_array([layer.domain_share[name] for name in names])
        ratio = log_ratio(rows, nan_array([layer.frequency]))
        heat_map(axes, ratio, RATIO_COLOURS, RATIO_SCALE)
        axes.set_yticks(range(len(names)), [printable(name, LABEL) for name in names])
        expert_ticks(axes, range(layer.experts), both=False)
        axes.set_title(layer_name(layer), loc="left")
    grid[-1].set_xlabel("expert")
    ratio_bar(figure, list(grid))
    counted = ", ".join(f"{domain.tokens:,} of {domain.name}" for domain in main.domains)
    return Drawing(
        "domains",
        "Which experts are for which text",
        "Share of a domain's tokens over the share of all tokens. Red: more than its share.",
        figure,
        "routing",
        f"n = {counted}. All of them counted, so there is no interval. Null: 1.",
    )


def saturation_figure(main: Findings) -> Drawing | None:
    """How much of the routing was there at earlier checkpoints; None where not measured.

    Of many layers only every second, third ... is drawn.
    """
    layers = [layer for layer in main.layers if layer.saturation]
    if not layers:
        return None
    figure = new_figure(2.5)
    axes = figure.add_subplot()
    every = -(-len(layers) // LAYERS_SHOWN)
    for number, layer in enumerate(layers[::every]):
        points, colour = layer.saturation, f"C{number}"
        steps = [point.step for point in points]
        shares = [100 * point.share for point in points]
        axes.plot(steps, shares, "o-", color=colour, ms=3, label=layer_name(layer))
        axes.plot(steps, [100 * point.chance for point in points], ":", color=colour, lw=0.8)
    step_axis(axes)
    axes.set_ylabel("same experts as there, %")
    finish(axes, [])
    axes.legend(ncols=2)
    return Drawing(
        "saturation",
        "When routing settled",
        "Share of a token's experts that an earlier checkpoint chose too. Dotted: chance.",
        figure,
        "training",
        f"n = {layers[0].saturation[0].tokens:,} {main.text.unit}s of {origin(main.text)}; no "
        "interval. Null: two unrelated routings with these loads (dotted)."
        + (f" One layer in {every} is shown." if every > 1 else ""),
    )
