"""Style and size of all figures, their common parts, and how they become SVG and PNG.

Figures are matplotlib `Figure` objects without pyplot, so there is no window, no current figure
and no state between two of them. They are one column of a paper wide, which is also what a phone
shows without shrinking the letters. The same findings give the same bytes of SVG. Colours are
those of Okabe and Ito (2008) and uniform colour maps, so nothing depends on telling red from
green.
"""

from __future__ import annotations

import contextlib
import html
import io
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.show.format import labels, number
from simsmoe_cli.errors import escaped, printable

WIDTH = 3.5  # inches: one column of a paper
PNG_DPI = 200
# A date or a version in it would make equal figures differ.
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
LABEL = 20  # letters of a layer's label
# Points of one run beyond which an SVG holds them as one image, for its size.
MANY_POINTS = 2000

INK = "#1b2430"
MUTED = "#5d6875"
RULE = "#d5dae1"
# In the order in which runs and layers take them.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# Colours that a page may replace on a dark background.
THEMED = {INK: "ink", MUTED: "muted", RULE: "rule"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES)
}

Runs = list[tuple[Findings, str, str]]

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.labelsize": 8,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "hatch.color": MUTED,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "simsmoe",
}


@dataclass(frozen=True)
class Drawing:
    """A figure and its words.

    Attributes:
        name: of its files, without suffix.
        title: a few words.
        caption: how to read it, with n, interval and null.
        figure: drawn inside `style()`.
        alone: written only to files; the page shows the same in other figures.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    alone: bool = False


@contextlib.contextmanager
def style(**more: Any) -> Iterator[None]:
    """The settings of matplotlib with which all figures are drawn and saved, not the user's."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A name in letters the font lacks is shown as boxes in PNG, without a warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | more)
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def inline_svg(drawing: Drawing) -> str:
    """The figure for a page: an <svg> element whose text is text and whose colours are the
    page's, with a label for those who do not see it."""
    with style(**{"svg.fonttype": "none"}):
        FigureCanvasSVG(drawing.figure)
        _lay_out(drawing.figure)
        buffer = io.StringIO()
        drawing.figure.savefig(
            buffer, format="svg", dpi=PNG_DPI, transparent=True, metadata=NO_METADATA
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Identifiers are of the whole page.
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{drawing.name}-", text)
    for colour, name in THEMED.items():
        text = text.replace(colour, f"var(--{name})")
    label = html.escape(escaped(f"{drawing.title}. {drawing.caption}"), quote=True)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def svg_file(drawing: Drawing) -> bytes:
    """A file for a paper, title and caption with it; letters are paths, the same everywhere."""
    return _file(drawing, FigureCanvasSVG, "svg", NO_METADATA, **{"svg.fonttype": "path"})


def png_file(drawing: Drawing) -> bytes:
    """The same as pixels."""
    return _file(drawing, FigureCanvasAgg, "png", {"Software": None})


def _file(
    drawing: Drawing,
    canvas: type[FigureCanvasBase],
    form: str,
    metadata: dict[str, None],
    **settings: Any,
) -> bytes:
    with style(**settings), _words(drawing) as box:
        canvas(drawing.figure)
        buffer = io.BytesIO()
        drawing.figure.savefig(
            buffer,
            format=form,
            dpi=PNG_DPI,
            bbox_inches=box,
            facecolor="white",
            metadata=metadata,
        )
    return buffer.getvalue()


def _lay_out(figure: Figure) -> None:
    """Lay a figure out once, for all files of it."""
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.execute(figure)
        figure.set_layout_engine("none")


@contextlib.contextmanager
def _words(drawing: Drawing) -> Iterator[Bbox]:
    """Title above and caption below the figure, for a file of its own; gives the box of all."""
    figure = drawing.figure
    _lay_out(figure)
    width, height = figure.get_size_inches()
    title = textwrap.fill(escaped(drawing.title), round(width * 12.5))
    caption = textwrap.fill(escaped(drawing.caption), round(width * 21))
    gap = 0.06
    texts = [
        figure.text(0.02, 1 + gap / height, title, fontsize=9, fontweight="bold", va="bottom"),
        figure.text(
            0.02, -gap / height, caption, fontsize=6, color=MUTED, va="top", linespacing=1.35
        ),
    ]
    above = 2 * gap + _lines(title) * 9 * 1.3 / 72
    below = 2 * gap + _lines(caption) * 6 * 1.4 / 72
    try:
        yield Bbox([[0, -below], [width, height + above]])
    finally:
        for text in texts:
            text.remove()


def _lines(text: str) -> int:
    return text.count("\n") + 1


# Heat maps


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


def expert_ticks(axes: Axes, experts: int) -> None:
    """Numbers of experts along both sides, as many as can be read."""
    ticks = range(0, experts, 1 if experts <= 16 else -(-experts // 8))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_yticks(ticks, [str(tick) for tick in ticks])


def legend_above(axes: Axes) -> None:
    """The names of two runs, outside the axes, so that the legend hides nothing."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, handlelength=1.6
    )


def by_layer(runs: Runs, height: float, label: str) -> tuple[Figure, Axes]:
    """A figure, and axes with one position per layer, from left to right, for one or two runs.

    Args:
        runs: as `subjects` gives them.
        height: in inches.
        label: of the vertical axis.
    """
    figure = new_figure(height)
    axes = figure.add_subplot()
    layers = runs[0][0].layers
    every = max(1, -(-len(layers) // 12))
    shown = layers[::every]
    words = [printable(layer.label, LABEL) for layer in shown]
    axes.set_xticks([layer.layer for layer in shown], words)
    if any(len(word) > 4 for word in words):
        axes.tick_params(axis="x", rotation=90)
    axes.set_xlabel("layer with experts, first to last")
    axes.grid(False, axis="x")
    axes.set_ylabel(label)
    return figure, axes


def beside_each_other(index: int, runs: Runs) -> float:
    """The sideways shift of a run's points, so that those of two runs do not overlap."""
    return (index - (len(runs) - 1) / 2) * 0.28


def finish(axes: Axes, runs: Runs, *, zero: bool = True) -> None:
    """Finish a figure: start the vertical axis at 0 if no value is below, and name two runs.

    Args:
        axes: drawn on.
        runs: as `subjects` gives them.
        zero: whether the axis includes 0.
    """
    if zero:
        from_zero(axes)
    if len(runs) > 1:
        legend_above(axes)


def from_zero(axes: Axes) -> None:
    """Start the vertical axis at 0, or lower if values are negative."""
    if axes.dataLim.y0 >= 0:
        axes.set_ylim(bottom=0)


def step_axis(axes: Axes) -> None:
    """The horizontal axis of figures over a training."""
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def colour_bar(
    figure: Figure, colours: Colormap, scale: Normalize, axes: Any, **how: Any
) -> Colorbar:
    """The colour scale next to a heat map."""
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, **{"pad": 0.02, **how})
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return bar


def subjects(main: Findings, against: Findings | None) -> Runs:
    """Each run with its name and colour."""
    first, second = labels(main.subject, against.subject if against else None)
    found = [(main, first, SERIES[0])]
    return found if against is None else [*found, (against, second, SERIES[1])]
