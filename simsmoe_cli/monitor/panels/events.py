"""What happened, newest first: evaluations, checkpoints, warnings and alerts, in words."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from simsmoe_cli.monitor.panels.panel import Panel
from simsmoe_cli.monitor.state.journal import LogLine

MARKS = {"info": " ", "good": "✓", "warning": "!", "alert": "▲"}


class Events(Panel):
    """Lines of the logs of all runs, by time; keys scroll."""

    TITLE = "Events and warnings"
    SHORT = "Events"
    ABOUT = (
        "What happened, the newest first. ▲ marks an alert: an expert died, a layer's load CV or "
        "mean CKA rose above its threshold, the loss is not finite, or a live run fell silent. "
        "! marks a warning, ✓ what went well or is over."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "up,k",
            "scroll_lines(-1)",
            "Newer",
            id="events.up",
            tooltip="Newer events",
            key_display="↑",
        ),
        Binding(
            "down,j",
            "scroll_lines(1)",
            "Older",
            id="events.down",
            tooltip="Older events",
            key_display="↓",
        ),
        Binding(
            "pageup",
            "scroll_lines(-10)",
            "Newer",
            id="events.pageup",
            show=False,
            tooltip="Newer events, ten at once",
        ),
        Binding(
            "pagedown",
            "scroll_lines(10)",
            "Older",
            id="events.pagedown",
            show=False,
            tooltip="Older events, ten at once",
        ),
        Binding(
            "home", "scroll_lines(-100000)", "Newest", id="events.home", tooltip="Newest event"
        ),
        Binding("end", "scroll_lines(100000)", "Oldest", id="events.end", tooltip="Oldest event"),
    ]

    def __init__(self) -> None:
        super().__init__(id="events")
        self._first = 0  # index of the line on top

    def fingerprint(self) -> Hashable:
        newest = tuple(
            (len(run.history.log), run.history.log[-1] if run.history.log else None)
            for run in self.runs
        )
        began = tuple(run.history.total_events > 0 for run in self.runs)
        return (newest, began, self._first)

    def draw(self, width: int, height: int) -> Sequence[Text]:
        logs = [
            [
                (-_order(line), -position, index, line)
                for position, line in enumerate(run.history.log)
            ]
            for index, run in enumerate(self.runs)
        ]
        entries = list(heapq.merge(*(reversed(log) for log in logs), key=lambda entry: entry[:3]))
        if not entries:
            self.below = ""
            return self.message("Nothing has happened yet.", width, height)
        self._first = max(0, min(self._first, len(entries) - 1))
        alerts = sum(len(run.history.alerts) for run in self.runs)
        counted = f"{len(entries)} events" + (f", alerts: {alerts}" if alerts else "")
        self.below = counted
        digits = max(len(f"{entry[3].step:,}") for entry in entries)
        lines: list[Text] = []
        for _, _, index, line in entries[self._first :]:
            lines += self._entry(index, line, width, digits)
            if len(lines) >= height:
                break
        return lines

    def _entry(self, index: int, line: LogLine, width: int, digits: int) -> list[Text]:
        theme = self.app.current_theme
        style = {
            "info": "",
            "good": theme.success or "",
            "warning": theme.warning or "",
            "alert": f"bold {theme.error}",
        }[line.level]
        head = Text()
        if len(self.runs) > 1:
            head.append("● ", self.curve_colors[index % len(self.curve_colors)])
        head.append(f"{line.step:>{digits},} ", "dim")
        head.append(f"{MARKS[line.level]} ", style)
        room = max(10, width - head.cell_len)
        words = Text(line.text, style=style).wrap(self.app.console, room)
        return [
            Text.assemble(head if row == 0 else " " * head.cell_len, part)
            for row, part in enumerate(words)
        ]

    def action_scroll_lines(self, lines: int) -> None:
        self._first = max(0, self._first + lines)
        self.update()


def _order(line: LogLine) -> float:
    return line.time if math.isfinite(line.time) else 0.0
