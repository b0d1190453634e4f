"""The figures of a report on one set of weights, or on two.

Fig. 4a, 4b and 5 are those of SimSMoE (arXiv 2406.15883). Every figure says in `numbers` how many
things were measured, the interval, and what would be seen if nothing were related. Undefined values
are hatched or left out and counted, never drawn as 0.

Shapes: L layers with experts, N experts of a layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from simsmoe_cli.collapse.difference import Difference
from simsmoe_cli.collapse.findings import Findings, LayerFindings, Matrix
from simsmoe_cli.collapse.measure.correlation import nan_array
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.figures.cost import left_out_figure, merging_figure
from simsmoe_cli.collapse.show.figures.heat_maps import (
    DIFFERENCE_COLOURS,
    SIMILARITY_COLOURS,
    SIMILARITY_SCALE,
    PairMap,
    colour_bar,
    heat_map,
    map_order,
    order_words,
    sheet,
)
from simsmoe_cli.collapse.show.figures.routing import entropy_figure, load_figure, rank_figure
from simsmoe_cli.collapse.show.figures.specialisation import (
    coactivation_figure,
    domains_figure,
    saturation_figure,
)
from simsmoe_cli.collapse.show.figures.style import (
    MANY_POINTS,
    Drawing,
    beside_each_other,
    by_layer,
    finish,
    in_a_row,
    ink,
    layer_name,
    muted,
    new_figure,
    place_of,
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

CROWDED = 20  # times the median share of shared tokens
WRITTEN_UP_TO = 8  # experts; with more, numbers do not fit into their cells
FIRST = "by-layer"  # the figure that a page shows before anything is unfolded


def report_figures(report: Report, *, files: bool = True) -> list[Drawing]:
    """All figures of a report, in the order in which they are shown; to be called in `style()`.

    Args:
        report: what to draw.
        files: include figures that are written only to files.
    """
    main, against = report.main, report.against
    figures = [
        _by_layer(main, against),
        _shared(main, against),
        _difference(main, against),
        rank_figure(main, against),
        left_out_figure(main, against),
        merging_figure(main, against),
        load_figure(main, against),
        entropy_figure(main, against),
        coactivation_figure(main),
        domains_figure(main),
        training_figure(report),
        loss_figure(report),
        saturation_figure(main),
    ]
    for index in range(max(len(found.layers) for found, _, _ in subjects(main, against))):
        figures += [
            _cka(found, found.layers[index], suffix, against is not None)
            for found, suffix in ((main, ""), (against, "-against"))
            if found is not None and index < len(found.layers)
        ]
    if files:
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
    """Similarity by the order of layers (Fig. 4b), between chance and copies."""
    runs = subjects(main, against)
    figure, axes = by_layer(runs, 2.5, "debiased CKA")
    said = []
    for index, (findings, name, colour) in enumerate(runs):
        undefined = 0
        for layer in findings.layers:
            pairs = _pairs(layer.cka)
            middle = place_of(index, layer, runs) + beside_each_other(index, runs)
            many = len(pairs) * len(findings.layers) > MANY_POINTS
            undefined += int(np.isnan(pairs).sum())
            axes.plot(
                middle + in_a_row(len(pairs), 0.14),
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
                axes.plot([middle] * 2, [mean.low, mean.high], color=ink(), lw=1.2)
            axes.plot(middle, mean.value, "o", color=colour, mec=ink(), mew=0.7, ms=5)
        axes.plot([], [], "o", color=colour, mec=ink(), mew=0.7, ms=5, label=name)
        missing = f"{undefined or 'no'} pairs undefined"
        depth = worth(findings.overall.depth, findings.settings.level, 2)
        said.append((name, missing + (f"; Spearman of layer and mean {depth}" if depth else "")))
    low = min(layer.cka_null.mean or 0 for layer in main.layers)
    high = main.null_95 or low
    axes.axhspan(low, max(high, low + 0.004), color=muted(), alpha=0.4, lw=0)
    axes.axhline(1, color=muted(), lw=0.8, ls="--")
    for at, words in ((1, "copies"), (max(high, 0), "chance")):
        axes.annotate(
            words,
            (1, at),
            (-2, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            fontsize="small",
            color=muted(),
        )
    finish(axes, runs)
    axes.set_ylim(top=1.09)
    count = main.layers[0].cka_mean
    return Drawing(
        FIRST,
        "Similarity of two experts, by layer",
        "Large: mean of a layer with its interval. Small: single pairs.",
        figure,
        "first",
        f"n = {count.n:,} {count.of} in the first layer, {of_text(main)}; "
        f"{main.settings.level:.0%} interval. Grey band: the null, experts with shuffled rows, "
        f"from the mean to the 95% quantile, at most {number(main.null_95)}. {per_run(said)}",
    )


def _shared(main: Findings, against: Findings | None) -> Drawing:
    """Shared tokens against similarity over all pairs (Fig. 4a)."""
    runs = subjects(main, against)
    figure = new_figure(2.6)
    axes = figure.add_subplot()
    said, all_shares = [], []
    for index, (findings, name, colour) in enumerate(runs):
        shared = np.concatenate([_pairs(layer.shared) for layer in findings.layers])
        similar = np.concatenate([_pairs(layer.cka) for layer in findings.layers])
        all_shares.append(shared)
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
        known = [
            f"{which} {words}"
            for which, found in (("Pearson", overall.pearson), ("Spearman", overall.spearman))
            if (words := worth(found, level, 2))
        ]
        said.append((name, ", ".join(known) or f"n = {len(shared):,} pairs are too few to tell"))
    axes.set_xlabel("tokens sent to both experts, % of all")
    axes.set_ylabel("debiased CKA of the pair")
    _spread(axes, 100 * np.concatenate(all_shares))
    finish(axes, runs)
    return Drawing(
        "shared-tokens",
        "Are experts that share tokens more similar?",
        "One point for each pair of experts of a layer.",
        figure,
        "similar",
        f"{per_run(said)} {of_text(main)}.",
    )


def _spread(axes: Axes, shares: NDArray[np.float64]) -> None:
    """Start the horizontal axis at 0; where most shares are far below the largest, as of many
    experts, it is logarithmic from the median on."""
    known = shares[shares > 0]
    if len(known) and (median := float(np.median(known))) < known.max() / CROWDED:
        axes.set_xscale("symlog", linthresh=median)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(left=0)


def _pair_map(layer: LayerFindings, title: str) -> PairMap:
    values = nan_array(layer.cka)
    return PairMap(title, values, map_order(values))


def _cka(findings: Findings, layer: LayerFindings, suffix: str, with_name: bool) -> Drawing:
    """Pairwise CKA of one layer."""
    figure = new_figure(2.75, 3.2)
    axes = figure.add_subplot()
    shown, scale = _pair_map(layer, ""), SIMILARITY_SCALE
    decimals = 2 if layer.experts <= WRITTEN_UP_TO else None
    shown.draw(axes, SIMILARITY_COLOURS, scale, decimals=decimals)
    axes.set_xlabel("expert")
    axes.set_ylabel("expert")
    colour_bar(figure, SIMILARITY_COLOURS, scale, axes, shrink=0.86, pad=0.03)
    missing = int(np.isnan(_pairs(layer.cka)).sum())
    pairs = "pair is" if missing == 1 else "pairs are"
    undefined = f"{missing} {pairs} undefined (hatched)." if missing else ""
    mean = layer.cka_mean
    of_run = f"{labels(findings.subject, None)[0]}, " if with_name else ""
    return Drawing(
        f"cka-layer-{file_part(layer)}{suffix}",
        f"{of_run}layer {printable(layer.label, NAME)}",
        f"Mean {number(mean.value)}. {undefined}",
        figure,
        "similar",
        f"n = {mean.n:,} {mean.of}; {interval(mean, findings.settings.level)}. Null of one pair: "
        f"mean {number(layer.cka_null.mean)}, 95% below {number(layer.cka_null.quantile_95)}. "
        f"{of_text(findings)}. {order_words(shown.order)}".rstrip(),
    )


def _sheet(main: Findings, against: Findings | None) -> Drawing:
    """Pairwise CKA of all layers in one picture, for a paper."""
    runs = subjects(main, against)

    def title(layer: LayerFindings) -> str:
        return f"{layer_name(layer)}: mean {number(layer.cka_mean.value, 2)}"

    groups = [
        (name, [_pair_map(layer, title(layer)) for layer in findings.layers])
        for findings, name, _ in runs
    ]
    figure, grid = sheet(groups, SIMILARITY_COLOURS, SIMILARITY_SCALE, across=4)
    bar = colour_bar(figure, SIMILARITY_COLOURS, SIMILARITY_SCALE, grid, shrink=0.7, aspect=30)
    bar.set_label("debiased CKA")
    means = [
        (name, f"mean of layers {number(findings.overall.cka_mean)}") for findings, name, _ in runs
    ]
    pairs = sum(layer.cka_mean.n for layer in main.layers)
    by_cluster = any(order_words(shown.order) for _, maps in groups for shown in maps)
    return Drawing(
        "cka-all-layers",
        "Debiased CKA of each pair of experts",
        "The darker, the more different. Hatched: undefined.",
        figure,
        numbers=f"{per_run(means)} n = {pairs:,} pairs on {of_text(main)}; the intervals of the "
        f"means are in the figure by layer; null of one pair: 95% below {number(main.null_95)}."
        + (" Experts by cluster." if by_cluster else ""),
    )


def _of_one_pair(shown: Sequence[tuple[Difference, Findings]]) -> bool:
    """Whether two runs show the same experts of corresponding layers."""
    (one, here), (other, there) = shown
    layer, partner = here.layer_at(one.layer), there.layer_at(other.layer)
    assert layer is not None
    return one.experts == other.experts and there.partner_of(layer, here) is partner


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
    elif _of_one_pair([(difference, found) for difference, _, found in shown]):
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
        "How far the most similar two are apart",
        "|E_i(x) - E_j(x)| of their outputs: 0 is the same, 1.4 is unrelated.",
        figure,
        "similar",
        f"In units of the outputs' root mean square. Null: two unrelated experts give 1.4. {which} "
        f"{per_run(said)} {len(shown[0][0].rows)} of them are shown; single outputs, so there is "
        "no interval.",
    )
