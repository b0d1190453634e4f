"""Colours of curves and words for a dark background, a light one and an unknown one.

Curves take the colours of Okabe and Ito (2008), which people with any common colour vision can
tell apart; on a light background the pale ones are darkened until they are readable.
"""

from __future__ import annotations

from dataclasses import dataclass

ON_DARK = ("#56b4e9", "#e69f00", "#3fc49b", "#dc8fbb", "#f0e442", "#f0743e", "#9db7ff", "#b8b8b8")
ON_LIGHT = ("#0072b2", "#b35c00", "#00795c", "#a8427f", "#7a6a00", "#b8400a", "#4456b8", "#5c5c5c")
ON_EITHER = ("#3b8fd4", "#d08700", "#1f9e77", "#c06a9b", "#a08c00", "#d9593d", "#7c86d6", "#909090")


@dataclass(frozen=True)
class Palette:
    """Colours by meaning, as rich names them.

    Attributes:
        primary: of a run that trains, and of progress.
        accent: of a pair under the cursor.
        success, warning, error: how things went.
        curves: of curves and runs, in the order in which they are used.
    """

    primary: str
    accent: str
    success: str
    warning: str
    error: str
    curves: tuple[str, ...]


PRINTED = Palette(
    primary="green",
    accent="#d08700",
    success="green",
    warning="yellow",
    error="red",
    curves=ON_EITHER,
)
