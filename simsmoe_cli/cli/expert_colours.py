"""Experts as colours that colour-blind people tell apart (Okabe and Ito 2008).

There are eight colours; further experts have the same colours with underlined text, bold text, and
both. The colour is the background; the text on it is dark or light, whichever is easier to read.
"""

from __future__ import annotations

from rich.text import Text

PALETTE = (
    "black on #56b4e9",
    "black on #e69f00",
    "white on #0072b2",
    "black on #f0e442",
    "black on #009e73",
    "black on #cc79a7",
    "white on #a04600",
    "black on #bbbbbb",
)
VARIANTS = ("", " underline", " bold", " bold underline")


class Painter:
    """Colours of N experts."""

    def __init__(self, experts: int):
        self.experts = experts

    def style(self, expert: int) -> str:
        """The style of an expert; they repeat after 32."""
        variant = VARIANTS[expert // len(PALETTE) % len(VARIANTS)]
        return PALETTE[expert % len(PALETTE)] + variant

    def paint(self, text: str, expert: int | None) -> Text:
        """A token on its expert's colour; without colour if it went to no expert."""
        return Text(text, style="" if expert is None else self.style(expert), end="")

    def legend(self) -> Text:
        """Every expert's number on its colour."""
        return Text(" ").join(self.paint(f" {expert} ", expert) for expert in range(self.experts))
