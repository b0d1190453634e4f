"""The two themes of the dashboard, and the palette of the theme in force."""

from __future__ import annotations

from textual.theme import Theme

from simsmoe_cli.monitor.draw.palette import ON_DARK, ON_LIGHT, Palette

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


def palette_of(theme: Theme) -> Palette:
    """The colours that panels are drawn in; a theme may leave out any but its primary one."""
    return Palette(
        primary=theme.primary,
        accent=theme.accent or "",
        success=theme.success or "",
        warning=theme.warning or "",
        error=theme.error or "",
        curves=ON_DARK if theme.dark else ON_LIGHT,
    )
