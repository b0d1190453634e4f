"""Colours for numbers, readable with any common colour vision and without colours.

The colours of similarity and of its changes are those of the report (run/similarity_colours.py);
cividis (Nunez et al. 2018), by nine of its colours and straight lines between, is for magnitudes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Span, Text

from simsmoe_cli.run.similarity_colours import CHANGE, SIMILARITY, SIMILARITY_ENDS

Kind = Literal["similarity", "change", "magnitude"]
RGB = tuple[int, int, int]
Floats = NDArray[np.floating[Any]]

_COLORS: dict[Kind, Sequence[str]] = {
    "similarity": SIMILARITY,
    "change": CHANGE,
    "magnitude": (
        "#00224e", "#1a386f", "#434e6c", "#61656f", "#7d7c78", "#9b9376", "#bbad6d", "#dcc85c",
        "#fee838",
    ),
}  # fmt: skip
LEVELS = 49  # odd, so that the middle of a diverging map has a colour of its own
SHADES = " ░▒▓█"
UNDEFINED: RGB = (110, 110, 110)
UNDEFINED_TEXT = "–"


@dataclass(frozen=True)
class Scale:
    """From a number to a colour or a shade.

    Attributes:
        low, high: numbers at the ends; beyond them the colour stays that of the end.
        kind: which colours.
    """

    low: float = 0.0
    high: float = 1.0
    kind: Kind = "similarity"

    def level(self, values: Floats) -> NDArray[np.int64]:
        """0 ... LEVELS - 1; -1 where a value is undefined."""
        width = self.high - self.low
        with np.errstate(invalid="ignore", over="ignore"):
            part = (np.asarray(values, dtype=np.float64) - self.low) / (width if width > 0 else 1.0)
        level = np.rint(np.nan_to_num(part, nan=0.0).clip(0, 1) * (LEVELS - 1))
        return np.where(np.isnan(part), -1, level).astype(np.int64)

    def rgb(self, level: int) -> RGB:
        """The colour of a level; -1 is undefined."""
        return UNDEFINED if level < 0 else palette(self.kind)[level]

    def shade(self, level: int) -> str:
        """A character that fills more of its cell at higher levels."""
        return UNDEFINED_TEXT if level < 0 else SHADES[level * len(SHADES) // LEVELS]


SIMILARITY_SCALE = Scale(*SIMILARITY_ENDS)


def change_scale(changes: Floats) -> Scale:
    """For differences of similarities: the same on both sides of 0, at least 0.1."""
    finite = np.abs(changes[np.isfinite(changes)])
    most = max(0.1, math.ceil(float(finite.max()) * 10 - 1e-6) / 10) if finite.size else 1.0
    return Scale(-most, most, "change")


def magnitude_scale(values: Floats) -> Scale:
    """From 0 to the largest value, rounded up to two digits so that it seldom changes."""
    finite = values[np.isfinite(values)]
    top = float(finite.max()) if finite.size else 0.0
    if top <= 0:
        return Scale(0.0, 1.0, "magnitude")
    unit = 10.0 ** (math.floor(math.log10(top)) - 1)
    return Scale(0.0, math.ceil(top / unit - 1e-9) * unit, "magnitude")


@lru_cache
def palette(kind: Kind) -> tuple[RGB, ...]:
    """All levels of a map."""
    anchors = np.array([list(bytes.fromhex(color[1:])) for color in _COLORS[kind]], dtype=float)
    at = np.linspace(0, len(anchors) - 1, LEVELS)
    channels = [np.interp(at, np.arange(len(anchors)), anchors[:, c]) for c in range(3)]
    return tuple((round(r), round(g), round(b)) for r, g, b in zip(*channels, strict=True))


@lru_cache(maxsize=8192)
def painted(foreground: RGB | None, background: RGB | None) -> Style:
    """The style of these colours."""
    return Style(
        color=Color.from_rgb(*foreground) if foreground else None,
        bgcolor=Color.from_rgb(*background) if background else None,
    )


def readable_on(background: RGB) -> RGB:
    """Black or white, whichever has the stronger contrast."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)


def color_bar(scale: Scale, width: int, *, color: bool = True, digits: int = 2) -> Text:
    """The scale as one line of at most `width` cells, with its ends in numbers."""
    low, high = f"{scale.low:.{digits}f} ", f" {scale.high:.{digits}f}"
    cells = width - len(low) - len(high)
    if cells < 2:
        return Text(f"{low.strip()}–{high.strip()}"[: max(0, width)])
    levels = [round(i * (LEVELS - 1) / (cells - 1)) for i in range(cells)]
    if not color:
        return Text(low + "".join(scale.shade(level) for level in levels) + high)
    spans = [
        Span(len(low) + i, len(low) + i + 1, painted(None, scale.rgb(level)))
        for i, level in enumerate(levels)
    ]
    return Text(low + " " * cells + high, spans=spans)
