"""Style of all figures, their common parts, and how they become files.

Figures are matplotlib `Figure` objects without pyplot, so there is no window, no current figure and
no state between two of them. They are one column of a paper wide, which is also what a phone shows
without shrinking the letters. On the page they have one style, whose colours follow the page. Files
follow the user's own settings of matplotlib as well (`own_settings`), and hold neither title nor
caption, which a paper has in its text. The same findings and settings give the same bytes.

Series have the colours of Okabe and Ito (2008) and heat maps even ones (`heat_maps.py`), so nothing
depends on telling red from green.
"""

from __future__ import annotations

import contextlib
import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.rcsetup import cycler
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from simsmoe_cli.collapse.findings import Findings, LayerFindings
from simsmoe_cli.collapse.show.format import labels
from simsmoe_cli.errors import UserError, escaped, nearest, printable

WIDTH = 3.5  # inches: one column of a paper
LABEL = 20  # letters of a layer's label
# Points of one run beyond which a vector file holds them as one image, for its size.
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
    "figure.figsize": (WIDTH, 2.5),
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.labelsize": 8,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=SERIES),
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "text.color": INK,
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
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # letters that an editor of PDF can change
    "svg.hashsalt": "simsmoe",
}
# Names of runs and models are text: no settings of a user make them formulas or code of LaTeX.
_NAMES_ARE_TEXT: Any = {"text.parse_math": False, "text.usetex": False}


@dataclass(frozen=True)
class Drawing:
    """A figure and its words.

    Attributes:
        name: of its files, without suffix.
        title: a few words.
        caption: how to read it, in two lines of a phone (90 letters).
        figure: drawn inside `style()`.
        section: of the page that shows it, see `html.py`; "" for files alone.
        numbers: what was counted, intervals and nulls.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    section: str = ""
    numbers: str = ""


@contextlib.contextmanager
def style(settings: Mapping[str, Any] | None = None) -> Iterator[None]:
    """The settings of matplotlib in which figures are drawn and saved.

    Args:
        settings: of `own_settings`; None gives the style of the page.
    """
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A name in letters the font lacks is shown as boxes in PNG, without a warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | dict(settings or {}) | _NAMES_ARE_TEXT)
        yield


def own_settings(name: str | None = None) -> dict[str, Any]:
    """The user's settings of matplotlib that differ from its defaults, and those of a style.

    Args:
        name: a style that matplotlib knows, or a file of one.

    Raises:
        UserError: there is no such style, or the file cannot be read as one.
    """
    default = matplotlib.rcParamsDefault
    own: dict[str, Any] = {
        str(key): value
        for key, value in matplotlib.rcParams.items()
        if key in default and key not in ("backend", "interactive") and value != default[key]
    }
    if name is None:
        return own
    if name in matplotlib.style.library:
        return own | {str(key): value for key, value in matplotlib.style.library[name].items()}
    if not Path(name).is_file():
        raise UserError(
            f"no style of matplotlib '{printable(name)}'",
            where="--style",
            hint=nearest(name, matplotlib.style.available),
        )
    try:
        found = matplotlib.rc_params_from_file(name, use_default_template=False)
        read = {str(key): value for key, value in found.items()}
    except (OSError, ValueError):
        read = {}
    if not read:
        raise UserError("not a file with settings of matplotlib", where=printable(name))
    return own | read


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure.

    Args:
        height, width: in inches where a figure is `WIDTH` wide; a style that sets another width
            scales both.
    """
    scale = matplotlib.rcParams["figure.figsize"][0] / WIDTH
    return Figure(figsize=(width * scale, height * scale), layout="constrained")


def inline_svg(drawing: Drawing) -> str:
    """The figure for a page: an <svg> element whose text is text and whose colours are the
    page's, with a label for those who do not see it."""
    with style({"svg.fonttype": "none", "savefig.dpi": 200}):
        FigureCanvasSVG(drawing.figure)
        _lay_out(drawing.figure)
        buffer = io.StringIO()
        drawing.figure.savefig(buffer, format="svg", transparent=True, metadata=_METADATA["svg"])
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Identifiers are of the whole page.
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{drawing.name}-", text)
    for colour, name in THEMED.items():
        text = text.replace(colour, f"var(--{name})")
    words = f"{drawing.title}. {drawing.caption} {drawing.numbers}".rstrip()
    label = html.escape(escaped(words), quote=True)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


_CANVAS = {"pdf": FigureCanvasPdf, "svg": FigureCanvasSVG, "png": FigureCanvasAgg}
# A date or a version in a file would make equal figures differ.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
}
FIGURE_FORMATS = tuple(_CANVAS)


def figure_file(drawing: Drawing, form: str, settings: Mapping[str, Any] | None = None) -> bytes:
    """A file for a paper: vectors, or pixels at 300 dpi.

    Args:
        drawing: drawn in `style(settings)`.
        form: of `FIGURE_FORMATS`.
        settings: of `own_settings`.
    """
    with style(settings):
        _CANVAS[form](drawing.figure)
        _lay_out(drawing.figure)
        buffer = io.BytesIO()
        drawing.figure.savefig(buffer, format=form, metadata=_METADATA[form])
    return buffer.getvalue()


def _lay_out(figure: Figure) -> None:
    """Lay a figure out once, for all files of it."""
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.execute(figure)
        figure.set_layout_engine("none")


def ink() -> str:
    """The colour of words."""
    return str(matplotlib.rcParams["text.color"])


def muted() -> str:
    """The colour of what stands back."""
    return str(matplotlib.rcParams["xtick.color"])


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
    _, ticks = _places(runs)
    every = max(1, -(-len(ticks) // 12))
    shown = ticks[::every]
    words = [printable(name, LABEL) for _, name in shown]
    axes.set_xticks([place for place, _ in shown], words)
    if any(len(word) > 4 for word in words):
        axes.tick_params(axis="x", rotation=90)
    axes.set_xlabel("layer with experts, first to last")
    axes.grid(False, axis="x")
    axes.set_ylabel(label)
    return figure, axes


def place_of(index: int, layer: LayerFindings, runs: Runs) -> float:
    """Where a layer of a run is on the axis of `by_layer`: beside its partner in the other run."""
    return _places(runs)[0][index][layer.layer]


def _places(runs: Runs) -> tuple[list[dict[int, float]], list[tuple[float, str]]]:
    """The places of each run's layers by their index, and the ticks with their labels."""
    main, *others = (findings for findings, *_ in runs)
    own = {layer.layer: float(layer.layer) for layer in main.layers}
    ticks = [(own[layer.layer], layer.label) for layer in main.layers]
    if not others:
        return [own], ticks
    (other,) = others
    partners = {layer.layer: main.partner_of(layer, other) for layer in other.layers}
    alone = [layer for layer in other.layers if partners[layer.layer] is None]
    names = [name for _, name in ticks] + [layer.label for layer in alone]
    place = {name: at for at, name in ticks}
    if alone and all(name.isdecimal() for name in names):  # in the order of their numbers
        place = {name: float(at) for at, name in enumerate(sorted(names, key=int))}
        own = {layer.layer: place[layer.label] for layer in main.layers}
    else:
        last = max(own.values(), default=-1.0)
        place |= {layer.label: last + at for at, layer in enumerate(alone, 1)}
    theirs = {
        layer.layer: place[layer.label] if partner is None else own[partner.layer]
        for layer in other.layers
        for partner in [partners[layer.layer]]
    }
    return [own, theirs], sorted((at, name) for name, at in place.items())


def layer_name(layer: LayerFindings) -> str:
    """ "layer 7", no longer than a figure has room for."""
    return f"layer {printable(layer.label, LABEL)}"


def in_a_row(count: int, width: float) -> NDArray[np.float64]:
    """Sideways shifts of so many points around the position of their layer."""
    return np.linspace(-width, width, count) / 2 if count > 1 else np.zeros(count)


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


def subjects(main: Findings, against: Findings | None) -> Runs:
    """Each run with its name and colour."""
    first, second = labels(main.subject, against.subject if against else None)
    found = [(main, first, "C0")]
    return found if against is None else [*found, (against, second, "C1")]
