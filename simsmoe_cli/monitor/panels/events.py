"""Evaluations, checkpoints, warnings and alerts in words, the newest first."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable
from dataclasses import replace
from functools import partial

from rich.text import Text

from simsmoe_cli.monitor.draw.text import message, wrapped
from simsmoe_cli.monitor.panels.panel import Key, Panel, Picture
from simsmoe_cli.monitor.state.journal import LogLine
from simsmoe_cli.monitor.view import View

MARKS = {"info": " ", "good": "✓", "warning": "!", "alert": "▲"}


def draw(view: View, width: int, height: int) -> Picture:
    """Lines of the logs of all runs by time, from the line `view.scroll` on."""
    logs = [
        [(-_order(line), -position, index, line) for position, line in enumerate(run.history.log)]
        for index, run in enumerate(view.runs)
    ]
    entries = list(heapq.merge(*(reversed(log) for log in logs), key=lambda entry: entry[:3]))
    if not entries:
        return Picture(message("Nothing has happened yet.", width, height), empty=True)
    scroll = max(0, min(view.scroll, len(entries) - 1))
    alerts = sum(len(run.history.alerts) for run in view.runs)
    counted = f"{len(entries)} events" + (f", alerts: {alerts}" if alerts else "")
    digits = max(len(f"{entry[3].step:,}") for entry in entries)
    lines: list[Text] = []
    for _, _, index, line in entries[scroll:]:
        lines += _entry(view, index, line, width, digits)
        if len(lines) >= height:
            break
    return Picture(lines[:height], counted, scroll=scroll)


def _entry(view: View, run: int, line: LogLine, width: int, digits: int) -> list[Text]:
    palette = view.palette
    style = {
        "info": "",
        "good": palette.success,
        "warning": palette.warning,
        "alert": f"bold {palette.error}",
    }[line.level]
    head = Text()
    if view.several:
        head.append("● ", view.color_of(run))
    head.append(f"{line.step:>{digits},} ", "dim")
    head.append(f"{MARKS[line.level]} ", style)
    words = wrapped(Text(line.text, style=style), max(10, width - head.cell_len))
    return [
        Text.assemble(head if row == 0 else " " * head.cell_len, part)
        for row, part in enumerate(words)
    ]


def _order(line: LogLine) -> float:
    return line.time if math.isfinite(line.time) else 0.0


def _depends_on(view: View) -> Hashable:
    logs = [run.history.log for run in view.runs]
    newest = tuple((len(log), log[-1] if log else None) for log in logs)
    return (newest, tuple(run.history.total_events > 0 for run in view.runs))


def _scroll(view: View, _width: int, lines: int) -> View:
    return replace(view, scroll=max(0, view.scroll + lines))


def _height(_view: View, _width: int) -> int:
    return 12


PANEL = Panel(
    id="events",
    title="Events and warnings",
    short="Events",
    about=(
        "What happened, the newest first. ▲ marks an alert: an expert died, a layer's load CV or "
        "mean CKA rose above its threshold, both at two probes in a row after the warm-up, the "
        "loss is not finite, or a live run fell silent. "
        "! marks a warning, ✓ what went well or is over."
    ),
    draw=draw,
    depends_on=_depends_on,
    keys=(
        Key("up,k", partial(_scroll, lines=-1), "Newer", "Newer events", display="↑"),
        Key("down,j", partial(_scroll, lines=1), "Older", "Older events", display="↓"),
        Key("pageup", partial(_scroll, lines=-10), "", "Newer events, ten at once"),
        Key("pagedown", partial(_scroll, lines=10), "", "Older events, ten at once"),
        Key("home", partial(_scroll, lines=-100_000), "Newest", "Newest event"),
        Key("end", partial(_scroll, lines=100_000), "Oldest", "Oldest event"),
    ),
    height=_height,
    wide=True,
)
