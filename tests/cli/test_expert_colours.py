"""Colours of experts."""

from __future__ import annotations

from simsmoe_cli.cli.expert_colours import Painter


def test_every_expert_has_a_style_of_its_own() -> None:
    painter = Painter(32)
    assert len({painter.style(expert) for expert in range(32)}) == 32
    assert painter.legend().plain.split() == [str(expert) for expert in range(32)]
    assert painter.paint("x", None).style == ""
