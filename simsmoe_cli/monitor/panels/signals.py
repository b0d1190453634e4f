"""Signals of training as small plots: speed, learning rate, gradient norm, losses by name."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from simsmoe_cli.monitor.draw.axes import Axis, short
from simsmoe_cli.monitor.draw.canvas import line_plot
from simsmoe_cli.monitor.panels.columns import GAP, beside
from simsmoe_cli.monitor.panels.curves import CURSOR_BINDINGS, CurvePanel, value_at

LEAST_WIDTH, LEAST_HEIGHT = 22, 6
_SCROLL = Binding.Group("Scroll", compact=True)

# Series in their order, and what they are called.
FIRST = {"tokens_per_s": "tokens/s", "lr": "learning rate", "grad_norm": "gradient norm"}
LAST = {
    "cka": "mean CKA",
    "load_cv": "load CV",
    "pairs.mean": "similarity of pairs learnt from",
    "pairs.due": "pairs due a step",
    "step_ms": "ms a step",
}


class Signals(CurvePanel):
    """As many small plots as fit; keys scroll to the others."""

    TITLE = "Signals of training"
    SHORT = "Signals"
    ABOUT = (
        "Throughput, learning rate, gradient norm, every loss by its name (nats, as reported, "
        "before its coefficient), mean CKA and load CV over layers, what similarity learning "
        "measures, and what the router reports. The newest value stands beside each name."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        *CURSOR_BINDINGS,
        Binding(
            "up", "scroll_plots(-1)", "Up", id="signals.up", group=_SCROLL, tooltip="Signals above"
        ),
        Binding(
            "down",
            "scroll_plots(1)",
            "Down",
            id="signals.down",
            group=_SCROLL,
            tooltip="Signals below",
        ),
    ]

    def __init__(self) -> None:
        super().__init__(id="signals")
        self._first_row = 0

    def fingerprint(self) -> Hashable:
        selection = self.selection
        looked_at = (selection.run, selection.at, selection.by_time)
        return (tuple(run.version for run in self.runs), looked_at, self._first_row)

    def draw(self, width: int, height: int) -> Sequence[Text]:
        names = self._names()
        if not names:
            return self.waiting("training step", width, height)
        columns = max(1, (width + GAP) // (LEAST_WIDTH + GAP))
        rows = -(-len(names) // columns)
        seen = max(1, min(rows, height // LEAST_HEIGHT))
        self._first_row = max(0, min(self._first_row, rows - seen))
        first = self._first_row * columns
        shown = list(names.items())[first : first + seen * columns]
        cell = (width - GAP * (columns - 1)) // columns
        x_axis = self.x_axis()
        lines: list[Text] = []
        for row in range(seen):
            high = (height - len(lines)) // (seen - row)
            part = shown[row * columns : (row + 1) * columns]
            plots = [self._plot(name, title, cell, high, x_axis) for name, title in part]
            lines += beside(plots, cell)
        self.below = f"{first + 1}–{first + len(shown)} of {len(names)}" if rows > seen else ""
        return lines

    def _names(self) -> dict[str, str]:
        """Series there are -> what they are called, in order."""
        present = {name for run in self.runs for name in run.history.series}
        named = dict(FIRST)
        for prefix, what in (("loss.", "{} loss"), ("metric.", "{}")):
            for name in sorted(present):
                if name.startswith(prefix):
                    named[name] = what.format(name.removeprefix(prefix).replace("_", " "))
        named |= LAST
        return {name: title for name, title in named.items() if name in present}

    def _plot(self, name: str, title: str, width: int, height: int, x_axis: Axis) -> list[Text]:
        curves = []
        values = []
        for index, run in enumerate(self.runs):
            curve = self.curve(run.history, name, "", self.color_of(index))
            if curve is None:
                continue
            color = self.color_of(index)
            curves.append(curve)
            at = self.selection.at
            last = run.history.last(name)
            value = last if at is None else value_at(self.points(run.history, name), at)
            values.append((value, f"not bold {color}" if len(self.runs) > 1 else "not bold"))
        head = Text(title, style="bold", no_wrap=True)
        gap = "  " if len(values) == 1 else " "
        for value, style in values:
            head.append(f"{gap}{_exact(value, 1000 if len(self.runs) == 1 else 100)}", style)
        head.truncate(width, overflow="ellipsis")
        plot = line_plot(
            curves, width, height - 1, x_axis=x_axis, legend=False, cursor=self.cursor_x()
        )
        return [head, *plot]

    def action_scroll_plots(self, rows: int) -> None:
        self._first_row = max(0, self._first_row + rows)
        self.update()


def _exact(value: float, parts: int) -> str:
    """A number, exact to about that part of it."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else short(value, abs(value) / parts)
