"""Colours of curves can be told from each other and from the ground."""

from __future__ import annotations

import pytest

from simsmoe_cli.monitor.draw.palette import ON_DARK, ON_EITHER, ON_LIGHT


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2, 0 for black and 1 for white."""
    parts = [value / 255 for value in bytes.fromhex(color.removeprefix("#"))]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("colors", "ground", "least"),
    [
        (ON_DARK, "#0f1419", 4.3),
        (ON_LIGHT, "#f7f7f4", 4.3),
        (ON_EITHER, "#000000", 3.0),
        (ON_EITHER, "#ffffff", 2.4),
    ],
)
def test_curves_are_readable(colors: tuple[str, ...], ground: str, least: float) -> None:
    assert len(set(colors)) == 8
    assert min(contrast(color, ground) for color in colors) >= least
