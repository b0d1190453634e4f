"""The panels, one a file; a new one needs its file and a line here.

The dashboard shows them and `--once` prints them in this order.
"""

from __future__ import annotations

from importlib import import_module

from simsmoe_cli.monitor.panels.panel import Panel

NAMES = (
    "score",
    "cka",
    "load",
    "signals",
    "layers",
    "shared_tokens",
    "events",  # the dashboard keeps the last one low
)
PANELS: tuple[Panel, ...] = tuple(import_module(f"{__name__}.{name}").PANEL for name in NAMES)
