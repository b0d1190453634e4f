"""Heat maps: their colours, undefined cells, colour scales, and sheets of many.

Dark is different and light is alike, as in the dashboard (`run/similarity_colours.py`).
Differences, of which small ones are alike, have another map. What is compared with an expectation
(load, shared tokens, domains) is drawn as a ratio: blue below, red above.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from simsmoe_cli.run.similarity_colours import CHANGE, SIMILARITY, SIMILARITY_ENDS

SIMILARITY_COLOURS = LinearSegmentedColormap.from_list("similarity", SIMILARITY)
SIMILARITY_SCALE = Normalize(*SIMILARITY_ENDS)
DIFFERENCE_COLOURS = matplotlib.colormaps["cividis_r"]
RATIO_COLOURS = LinearSegmentedColormap.from_list("ratio", CHANGE)
RATIO_SCALE = Normalize(-2, 2)  # log2: from a quarter to four times what is expected

Map = NDArray[np.float64]


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


def expert_ticks(axes: Axes, experts: int, *, both: bool = True) -> None:
    """Numbers of experts, as many as can be read, below and, if asked, at the left side as well."""
    ticks = range(0, experts, 1 if experts <= 16 else -(-experts // 8))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    if both:
        axes.set_yticks(ticks, [str(tick) for tick in ticks])


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
    groups: Sequence[tuple[str, Sequence[tuple[str, Map]]]],
    colours: Colormap,
    scale: Normalize,
    across: int,
) -> tuple[Figure, list[Axes]]:
    """Many square maps of pairs in one figure.

    Args:
        groups: for each run its name, and the title and values of each map. A run begins a line.
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
        for (title, values), axes in zip(maps, row, strict=False):
            heat_map(axes, values, colours, scale, diagonal=True)
            axes.set_aspect("equal")
            expert_ticks(axes, len(values))
            axes.set_title(title)
        row[0].set_ylabel(name)
    return figure, list(grid.flat)
