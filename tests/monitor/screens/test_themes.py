"""Panels are drawn in the colours of the theme in force."""

from __future__ import annotations

import pytest
from textual.theme import BUILTIN_THEMES, Theme

from simsmoe_cli.monitor.draw.palette import ON_DARK, ON_LIGHT
from simsmoe_cli.monitor.screens.themes import DARK, LIGHT, palette_of


def test_the_own_themes() -> None:
    assert palette_of(DARK).curves == ON_DARK
    assert palette_of(LIGHT).curves == ON_LIGHT
    assert palette_of(DARK).error == DARK.error


@pytest.mark.parametrize("name", sorted(BUILTIN_THEMES))
def test_any_theme_of_textual_will_do(name: str) -> None:
    assert palette_of(BUILTIN_THEMES[name]).primary == BUILTIN_THEMES[name].primary


def test_a_theme_may_leave_out_colours() -> None:
    assert palette_of(Theme("bare", primary="#123456")).warning == ""
