"""The two themes of the dashboard and the colours of its curves.

Curves take the colours of Okabe and Ito (2008), which people with any common colour vision can
tell apart; on a light ground the pale ones are darkened until they are readable.
"""

from __future__ import annotations

from textual.theme import Theme

DARK = Theme(
    name="simsmoe-dark",
    primary="#56b4e9",
    secondary="#7f9db3",
    accent="#e69f00",
    warning="#e69f00",
    error="#f0743e",
    success="#3fc49b",
    foreground="#dfe5ea",
    background="#0f1419",
    surface="#151b22",
    panel="#1d2630",
    dark=True,
)
LIGHT = Theme(
    name="simsmoe-light",
    primary="#0072b2",
    secondary="#56707f",
    accent="#b35c00",
    warning="#9a5b00",
    error="#b8400a",
    success="#00735a",
    foreground="#1d262d",
    background="#f7f7f4",
    surface="#ffffff",
    panel="#e7eaea",
    dark=False,
)

_ON_DARK = ("#56b4e9", "#e69f00", "#3fc49b", "#dc8fbb", "#f0e442", "#f0743e", "#9db7ff", "#b8b8b8")
_ON_LIGHT = ("#0072b2", "#b35c00", "#00795c", "#a8427f", "#7a6a00", "#b8400a", "#4456b8", "#5c5c5c")


def curve_colors(dark: bool) -> tuple[str, ...]:
    """Eight colours for curves, in the order in which they are used."""
    return _ON_DARK if dark else _ON_LIGHT
