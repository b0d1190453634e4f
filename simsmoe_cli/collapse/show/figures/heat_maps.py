"""Heat maps: their colours, undefined cells, colour scales, and sheets of many.

Dark is different and light is alike, as in the dashboard (`run/similarity_colours.py`).
Differences, of which small ones are alike, have another map. What is compared with an expectation
(load, shared tokens, domains) is drawn as a ratio: blue below, red above.

Maps of the pairs of many experts are ordered by cluster, as the monitor orders them (key c); the
numbers at their axes stay those of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simsmoe_cli.collapse.show.figures.style import WIDTH, new_figure
from simsmoe_cli.collapse.show.format import number
from simsmoe_cli.run.cluster_order import cluster_order
from simsmoe_cli.run.similarity_colours import CHANGE, SIMILARITY, SIMILARITY_ENDS

SIMILARITY_COLOURS = LinearSegmentedColormap.from_list("similarity", SIMILARITY)
SIMILARITY_SCALE = Normalize(*SIMILARITY_ENDS)
DIFFERENCE_COLOURS = matplotlib.colormaps["cividis_r"]
RATIO_COLOURS = LinearSegmentedColormap.from_list("ratio", CHANGE)
RATIO_SCALE = Normalize(-2, 2)  # log2: from a quarter to four times what is expected

CLUSTERED_FROM = 16  # experts; the clusters of fewer are seen in any order

Map = NDArray[np.float64]


@dataclass(frozen=True)
class PairMap:
    """A map of the pairs of a layer's experts.

    Attributes:
        title: above it.
        values: [N, N] in the order of the experts' numbers, nan where undefined.
        order: the experts as they are drawn, from `map_order`.
    """

    title: str
    values: Map
    order: Sequence[int]

    def draw(
        self,
        axes: Axes,
        colours: Colormap,
        scale: Normalize,
        *,
        decimals: int | None = None,
        labels: int = 16,
    ) -> None:
        """Draw it with the experts' numbers; see `heat_map` and `expert_ticks`."""
        shown = self.values[np.ix_(self.order, self.order)]
        heat_map(axes, shown, colours, scale, diagonal=True, decimals=decimals)
        axes.set_aspect("equal")
        expert_ticks(axes, self.order, most=labels)


def map_order(similarity_NN: Map) -> list[int]:
    """The experts of a layer as its maps of pairs show them: many by cluster, few by number."""
    if len(similarity_NN) < CLUSTERED_FROM:
        return list(range(len(similarity_NN)))
    return [int(expert) for expert in cluster_order(similarity_NN)]


def order_words(order: Sequence[int]) -> str:
    """How the experts of a map are ordered, as sentences; "" if by number."""
    if list(order) == sorted(order):
        return ""
    return f"Experts by cluster, from the top: {', '.join(map(str, order))}. "


def log_ratio(found: Map, expected: Map) -> Map:
    """log2 of found over expected; nan where nothing is expected, or either is undefined."""
    known = ~np.isnan(found) & ~np.isnan(expected) & (np.nan_to_num(expected) > 0)
    ratio = np.full(np.broadcast_shapes(found.shape, expected.shape), np.nan)
    np.divide(found, expected, out=ratio, where=known)
    return np.asarray(np.log2(np.maximum(ratio, 2.0**-20)))


def heat_map(
    axes: Axes,
    values: NDArray[np.float64],
    colours: Colormap,
    scale: Normalize,
    *,
    diagonal: bool = False,
    decimals: int | None = None,
) -> None:
    """A matrix as coloured cells; undefined ones are hatched.

    Args:
        axes: to draw on.
        values: [rows, columns], nan where undefined.
        colours, scale: which colour a value gets.
        diagonal: leave the diagonal grey, where it is 1 by definition.
        decimals: of the value written into its cell; None writes none.
    """
    undefined = np.isnan(values)
    pixels = colours(scale(np.nan_to_num(values)))
    pixels[undefined] = 0
    if diagonal:
        pixels[np.diag_indices(len(values))] = (0.5, 0.5, 0.5, 0.25)
    axes.set_facecolor("none")
    axes.patch.set_hatch("//////" if undefined.any() else "")
    axes.imshow(pixels, interpolation="none", aspect="auto")
    axes.grid(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if decimals is None:
        return
    for (row, column), value in np.ndenumerate(values):
        if undefined[row, column] or (diagonal and row == column):
            continue
        red, green, blue, _ = pixels[row, column]
        light = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5
        axes.text(
            column,
            row,
            number(value, decimals).replace("0.", ".", 1),
            ha="center",
            va="center",
            fontsize=6,
            color="#000000" if light else "#ffffff",
        )


def expert_ticks(axes: Axes, experts: Sequence[int], *, both: bool = True, most: int = 16) -> None:
    """Numbers of experts, as many as can be read, below and, if asked, at the left side as well.

    Args:
        axes: with one column, and row, for each expert.
        experts: their numbers, as they are drawn.
        both: at the left side as well.
        most: how many there is room for.
    """
    ticks = range(0, len(experts), 1 if len(experts) <= most else -(-len(experts) // 8))
    numbers = [str(experts[tick]) for tick in ticks]
    axes.set_xticks(ticks, numbers)
    if both:
        axes.set_yticks(ticks, numbers)


def colour_bar(
    figure: Figure, colours: Colormap, scale: Normalize, axes: Any, **how: Any
) -> Colorbar:
    """The colour scale next to a heat map."""
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, **{"pad": 0.02, **how})
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return bar


def ratio_bar(figure: Figure, axes: Any, **how: Any) -> None:
    """The colour scale of ratios."""
    bar = colour_bar(figure, RATIO_COLOURS, RATIO_SCALE, axes, ticks=[-2, -1, 0, 1, 2], **how)
    bar.ax.set_yticklabels(["¼", "½", "1", "2", "4"])


def sheet(
    groups: Sequence[tuple[str, Sequence[PairMap]]],
    colours: Colormap,
    scale: Normalize,
    across: int,
) -> tuple[Figure, list[Axes]]:
    """Many square maps of pairs in one figure.

    Args:
        groups: for each run its name and its maps. A run begins a line.
        colours, scale: of all maps.
        across: maps in one line; two are as wide as a phone.
    """
    across = min(across, max(len(maps) for _, maps in groups))
    lines = [
        (name, maps[start : start + across])
        for name, maps in groups
        for start in range(0, len(maps), across)
    ]
    figure = new_figure(0.3 + 1.75 * len(lines), max(WIDTH, 0.5 + 1.65 * across))
    grid = figure.subplots(len(lines), across, squeeze=False)
    for (name, maps), row in zip(lines, grid, strict=True):
        for axes in row[len(maps) :]:
            axes.set_axis_off()
        for pair_map, axes in zip(maps, row, strict=False):
            pair_map.draw(axes, colours, scale, labels=10)
            axes.set_title(pair_map.title)
        row[0].set_ylabel(name)
    return figure, list(grid.flat)
