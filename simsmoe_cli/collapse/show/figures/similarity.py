"""The figures of a report on one set of weights, or on two.

Fig. 4a, 4b and 5 are those of SimSMoE (arXiv 2406.15883). Every caption says how many things were
measured, the interval, and what would be seen if nothing were related. Undefined values are
hatched or left out and counted, never drawn as 0.

Shapes: L layers with experts, N experts of a layer.
"""

from __future__ import annotations

import re

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from simsmoe_cli.collapse.findings import Findings, LayerFindings, Matrix
from simsmoe_cli.collapse.measure.correlation import nan_array
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.figures.routing import entropy_figure, load_figure, rank_figure
from simsmoe_cli.collapse.show.figures.style import (
    INK,
    LABEL,
    MANY_POINTS,
    MUTED,
    WIDTH,
    Drawing,
    beside_each_other,
    by_layer,
    colour_bar,
    expert_ticks,
    finish,
    heat_map,
    new_figure,
    style,
    subjects,
)
from simsmoe_cli.collapse.show.figures.training import loss_figure, training_figure
from simsmoe_cli.collapse.show.format import (
    NAME,
    interval,
    labels,
    number,
    of_text,
    per_run,
    worth,
)
from simsmoe_cli.errors import printable

CKA_COLOURS = matplotlib.colormaps["magma_r"]
DIFFERENCE_COLOURS = matplotlib.colormaps["viridis"]
WRITTEN_UP_TO = 8  # experts; with more, numbers do not fit into their cells
LAYERS_ACROSS = 4  # of the sheet of all layers


def report_figures(report: Report, *, alone: bool = True) -> list[Drawing]:
    """All figures of a report, in the order in which they are shown.

    Args:
        report: what to draw.
        alone: include figures that are written only to files.
    """
    main, against = report.main, report.against
    with style():
        figures = [
            _by_layer(main, against),
            _shared(main, against),
            training_figure(report),
            loss_figure(report),
            _difference(main, against),
            load_figure(main, against),
            entropy_figure(main, against),
            rank_figure(main, against),
        ]
        for index in range(max(len(found.layers) for found, _, _ in subjects(main, against))):
            figures += [
                _cka(found, found.layers[index], suffix, against is not None)
                for found, suffix in ((main, ""), (against, "-against"))
                if found is not None and index < len(found.layers)
            ]
        if alone:
            figures.append(_sheet(main, against))
    return [figure for figure in figures if figure is not None]


def file_part(layer: LayerFindings) -> str:
    """A layer's label as part of a file's name: letters, digits, dots and dashes alone.

    The layer's index is added to a label that is not a number, so that no two layers share a file.
    """
    if isinstance(layer.number, int):
        return str(layer.number)
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', layer.label)[:60].strip('-.')}-{layer.layer}"


def _pairs(matrix: Matrix) -> NDArray[np.float64]:
    """The upper triangle, nan where undefined."""
    array = nan_array(matrix)
    return array[np.triu_indices(len(array), 1)]


def _by_layer(main: Findings, against: Findings | None) -> Drawing:
    """Similarity by the order of layers (Fig. 4b)."""
    runs = subjects(main, against)
    figure, axes = by_layer(runs, 2.5, "debiased CKA")
    said = []
    for index, (findings, name, colour) in enumerate(runs):
        undefined = 0
        for layer in findings.layers:
            pairs = _pairs(layer.cka)
            middle = layer.layer + beside_each_other(index, runs)
            many = len(pairs) * len(findings.layers) > MANY_POINTS
            undefined += int(np.isnan(pairs).sum())
            spread = np.linspace(-0.07, 0.07, len(pairs)) if len(pairs) != 1 else np.zeros(1)
            axes.plot(
                middle + spread,
                pairs,
                ".",
                color=colour,
                alpha=0.1 if many else 0.3,
                ms=1.5 if many else 3,
                mew=0,
                rasterized=many,
            )
            mean = layer.cka_mean
            if mean.value is None:
                continue
            if mean.low is not None and mean.high is not None:
                axes.plot([middle] * 2, [mean.low, mean.high], color=INK, lw=1.2)
            axes.plot(middle, mean.value, "o", color=colour, mec=INK, mew=0.7, ms=5)
        axes.plot([], [], "o", color=colour, mec=INK, mew=0.7, ms=5, label=name)
        rho = worth(findings.overall.depth, findings.settings.level, 2)
        missing = f"; {undefined} pairs undefined and not shown" if undefined else ""
        said.append((name, f"Spearman of layer and mean {rho}{missing}"))
    if main.null_95 is not None:
        low = min(layer.cka_null.mean or 0 for layer in main.layers)
        axes.axhspan(low, main.null_95, color=MUTED, alpha=0.25, lw=0)
    finish(axes, runs)
    mean_of = main.layers[0].cka_mean
    return Drawing(
        "by-layer",
        "Similarity of experts, layer by layer",
        f"Large points: mean over n = {mean_of.n:,} {mean_of.of} of a layer, with its "
        f"{main.settings.level:.0%} interval; small points: single pairs; grey band: the null, "
        f"from the mean to the 95% quantile of experts with shuffled rows, at most "
        f"{number(main.null_95)}. {per_run(said)} {of_text(main)}.",
        figure,
    )


def _shared(main: Findings, against: Findings | None) -> Drawing:
    """Shared tokens against similarity over all pairs (Fig. 4a)."""
    runs = subjects(main, against)
    figure = new_figure(2.6)
    axes = figure.add_subplot()
    said = []
    for index, (findings, name, colour) in enumerate(runs):
        shared = np.concatenate([_pairs(layer.shared) for layer in findings.layers])
        similar = np.concatenate([_pairs(layer.cka) for layer in findings.layers])
        axes.plot(
            100 * shared,
            similar,
            "os"[index],
            color=colour,
            ms=3.5 if len(shared) < 400 else 2 if len(shared) < MANY_POINTS else 1,
            alpha=0.6 if len(shared) < 400 else 0.3 if len(shared) < MANY_POINTS else 0.1,
            mew=0,
            rasterized=len(shared) > MANY_POINTS,
        )
        axes.plot([], [], "os"[index], color=colour, ms=3.5, mew=0, label=name)
        overall, level = findings.overall, findings.settings.level
        said.append(
            (
                name,
                f"Pearson {worth(overall.pearson, level, 2)}, "
                f"Spearman {worth(overall.spearman, level, 2)}",
            )
        )
    axes.set_xlabel("tokens sent to both experts, % of all")
    axes.set_ylabel("debiased CKA of the pair")
    axes.set_xlim(left=0)
    finish(axes, runs)
    return Drawing(
        "shared-tokens",
        "Are experts that share tokens more similar?",
        f"One point for each pair of experts of each layer. {per_run(said)} {of_text(main)}.",
        figure,
    )


def _cka(findings: Findings, layer: LayerFindings, suffix: str, with_name: bool) -> Drawing:
    """Pairwise CKA of one layer."""
    figure = new_figure(2.75, 3.2)
    axes = figure.add_subplot()
    values = nan_array(layer.cka)
    decimals = 2 if layer.experts <= WRITTEN_UP_TO else None
    scale = Normalize(0, 1)
    heat_map(axes, values, CKA_COLOURS, scale, diagonal=True, decimals=decimals)
    axes.set_aspect("equal")
    expert_ticks(axes, layer.experts)
    axes.set_xlabel("expert")
    axes.set_ylabel("expert")
    colour_bar(figure, CKA_COLOURS, scale, axes, shrink=0.86, pad=0.03)
    missing = int(np.isnan(_pairs(layer.cka)).sum())
    mean = layer.cka_mean
    of_run = f"{labels(findings.subject, None)[0]}, " if with_name else ""
    return Drawing(
        f"cka-layer-{file_part(layer)}{suffix}",
        f"{of_run}layer {printable(layer.label, NAME)}: debiased CKA of each pair",
        f"Mean {number(mean.value)} (n = {mean.n:,} {mean.of}; "
        f"{interval(mean, findings.settings.level)}). Null of one pair: mean "
        f"{number(layer.cka_null.mean)}, 95% below {number(layer.cka_null.quantile_95)}. "
        f"{missing or 'No'} {'pair is' if missing == 1 else 'pairs are'} undefined (hatched). "
        f"{of_text(findings)}.",
        figure,
    )


def _sheet(main: Findings, against: Findings | None) -> Drawing:
    """Pairwise CKA of all layers in one picture, for a paper."""
    runs = subjects(main, against)
    across = min(LAYERS_ACROSS, max(len(findings.layers) for findings, _, _ in runs))
    rows = [
        (findings, name, findings.layers[start : start + across])
        for findings, name, _ in runs
        for start in range(0, len(findings.layers), across)
    ]
    figure = new_figure(0.3 + 1.75 * len(rows), max(WIDTH, 0.5 + 1.65 * across))
    grid = figure.subplots(len(rows), across, squeeze=False)
    scale = Normalize(0, 1)
    for (_, name, layers), line in zip(rows, grid, strict=True):
        for column, axes in enumerate(line):
            if column >= len(layers):
                axes.set_axis_off()
                continue
            layer = layers[column]
            heat_map(axes, nan_array(layer.cka), CKA_COLOURS, scale, diagonal=True)
            axes.set_aspect("equal")
            expert_ticks(axes, layer.experts)
            axes.set_title(
                f"layer {printable(layer.label, LABEL)}: mean {number(layer.cka_mean.value, 2)}"
            )
            if column == 0:
                axes.set_ylabel(name)
    bar = colour_bar(figure, CKA_COLOURS, scale, list(grid.flat), shrink=0.7, aspect=30)
    bar.set_label("debiased CKA")
    said = [
        (name, f"mean of layers {number(findings.overall.cka_mean)}") for findings, name, _ in runs
    ]
    pairs = sum(layer.cka_mean.n for layer in main.layers)
    return Drawing(
        "cka-all-layers",
        "Debiased CKA of each pair of experts",
        f"{per_run(said)} n = {pairs:,} pairs on {of_text(main)}; the intervals of the means are "
        f"in the figure by layer; null of one pair: 95% below {number(main.null_95)}. Hatched: "
        f"undefined.",
        figure,
        alone=True,
    )


def _difference(main: Findings, against: Findings | None) -> Drawing | None:
    """Heat map of the difference of two experts' outputs (Fig. 5)."""
    shown = [
        (found.difference, name, found)
        for found, name, _ in subjects(main, against)
        if found.difference is not None
    ]
    if not shown:
        return None
    scale = Normalize(0, 2)
    figure = new_figure(0.3 + 1.7 * len(shown))
    grid = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    said = []
    for (difference, name, findings), axes in zip(shown, grid, strict=True):
        heat_map(axes, np.array(difference.values), DIFFERENCE_COLOURS, scale)
        first, second = difference.experts
        layer = findings.layer_at(difference.layer)
        assert layer is not None
        where = f"layer {printable(layer.label, NAME)}, experts {first} and {second}"
        axes.set_title(f"{name}: {where}" if len(shown) > 1 else where, loc="left")
        axes.set_ylabel("token")
        every = max(1, len(difference.features) // 6)
        starts = [start for start, _ in difference.features]
        axes.set_xticks(range(0, len(starts), every), [str(start) for start in starts[::every]])
        axes.set_yticks([])
        said.append(
            (
                name,
                f"CKA {number(difference.cka)}, differs by "
                f"{number(difference.mean)} (root mean square over n = {findings.text.rows:,} "
                f"{findings.text.unit}s)",
            )
        )
    of_whom = max(shown, key=lambda found: found[0].cka)[1]
    if len(shown) == 1:
        which = "The most similar pair is shown."
    elif len({(difference.layer, difference.experts) for difference, _, _ in shown}) == 1:
        which = (
            f"Both panels show the most similar pair of {of_whom}. It was chosen for that, so it "
            "is less similar in the other run."
        )
    else:
        which = (
            f"Each panel shows the most similar pair of its run: that of {of_whom} is missing or "
            "undefined in the other."
        )
    grid[-1].set_xlabel("dimension of the output")
    colour_bar(figure, DIFFERENCE_COLOURS, scale, list(grid))
    return Drawing(
        "difference",
        "How far the two most similar experts are apart",
        f"|E_i(x) - E_j(x)| in units of the outputs' root mean square: 0 is the same (dark), 1.4 "
        f"is what two unrelated experts would give (the null), 2 and more is yellow. {which} "
        f"{per_run(said)} {len(shown[0][0].rows)} of them are shown; single outputs, so there is "
        "no interval.",
        figure,
    )
