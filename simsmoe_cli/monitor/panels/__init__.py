"""The panels, one per file; a new panel needs its file and its name here.

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
    "log",
    "events",  # the dashboard keeps the last two low
)
PANELS: tuple[Panel, ...] = tuple(import_module(f"{__name__}.{name}").PANEL for name in NAMES)
