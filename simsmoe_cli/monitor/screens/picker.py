"""The picker: a list of the runs in a folder, the newest first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import events, work
from textual.app import ComposeResult, SystemCommand
from textual.binding import BindingType
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from simsmoe_cli.monitor.draw.text import decimal
from simsmoe_cli.monitor.panels.header import status_style
from simsmoe_cli.monitor.screens.keys import FILTER_KEYS, PICKER_KEYS
from simsmoe_cli.monitor.screens.message_line import MessageLine
from simsmoe_cli.monitor.screens.themes import palette_of
from simsmoe_cli.monitor.state.runs import RunSummary, find_runs
from simsmoe_cli.run.duration import duration

LOOK_EVERY_S = 3.0
# In a narrow window, columns are left out from the last on.
COLUMNS = ("run", "state", "step", "score", "CKA", "written", "router", "similarity", "recipe")
SORTED_BY = ("written", "name", "score", "CKA", "state")
NAME_WIDTH = 28  # a longer name is cut if this makes room for another column

NO_RUNS = """\
There are no runs here yet. This list fills as training begins:
simsmoe pretrain --recipe quickstart"""
NO_MATCH = "No run has these words; escape drops them."


class Filter(Input):
    """Words that the listed runs must have."""

    BINDINGS: ClassVar[list[BindingType]] = FILTER_KEYS


class Picker(Screen[None]):
    """A list of runs; several can be marked and opened together.

    Args:
        runs_dir: the folder of runs.
        clock: seconds since the epoch.
        open_runs: shows the chosen runs instead.
        chosen: run folders that are marked at first.
    """

    BINDINGS: ClassVar[list[BindingType]] = PICKER_KEYS

    @dataclass
    class Found(Message):
        """The folder was read."""

        runs: list[RunSummary]

    def __init__(
        self,
        runs_dir: Path,
        clock: Callable[[], float],
        open_runs: Callable[[Sequence[Path]], None],
        chosen: Sequence[Path] = (),
    ):
        super().__init__()
        self.runs_dir = runs_dir
        self.clock = clock
        self._open_runs = open_runs
        self.runs: list[RunSummary] = []
        self.marked: list[Path] = list(chosen) if len(chosen) > 1 else []
        self.sorted_by = SORTED_BY[0]
        self._shown: list[RunSummary] = []

    def compose(self) -> ComposeResult:
        yield Static(id="picker-title")
        yield Filter(placeholder="words in name, state, router, recipe", id="picker-filter")
        yield Static(id="picker-heading")
        yield OptionList(id="picker-list")
        yield Static(NO_RUNS, id="picker-empty")
        yield Footer()
        yield MessageLine()

    def on_mount(self) -> None:
        self._list.focus()
        self._look()
        self.set_interval(LOOK_EVERY_S, self._look)

    @property
    def _list(self) -> OptionList:
        return self.query_one("#picker-list", OptionList)

    @property
    def _filter(self) -> Filter:
        return self.query_one(Filter)

    @property
    def listed(self) -> list[RunSummary]:
        """The runs that the filter leaves, as they are sorted."""
        words = self._filter.value.lower().split()
        found = [run for run in self.runs if all(word in _searched(run) for word in words)]
        return sorted(found, key=_SORT_KEYS[self.sorted_by])

    @work(thread=True, exclusive=True)
    def _look(self) -> None:
        self.post_message(self.Found(find_runs(self.runs_dir, self.clock())))

    def on_picker_found(self, message: Found) -> None:
        if message.runs != self.runs or not self._list.option_count:
            self.runs = message.runs
            self._fill()

    def on_resize(self, event: events.Resize) -> None:
        self._fill()

    def _fill(self) -> None:
        """Fill the list again; the cursor stays on its run."""
        at = self._under_cursor()
        self._shown = self.listed
        title = Text("Runs in ", style="bold").append(str(self.runs_dir), "not bold")
        if len(self._shown) < len(self.runs):
            title.append(f"   {len(self._shown)} of {len(self.runs)}", "dim not bold")
        if self.sorted_by != SORTED_BY[0]:
            title.append(f"   by {self.sorted_by}", "dim not bold")
        if self.marked:
            title.append(f"   {len(self.marked)} marked", self.app.current_theme.accent or "")
        self.query_one("#picker-title", Static).update(title)
        self._list.display = bool(self._shown)
        self.query_one("#picker-heading").display = bool(self.runs)
        empty = self.query_one("#picker-empty", Static)
        empty.display = not self._shown
        empty.update(NO_MATCH if self.runs else NO_RUNS)
        cells = [self._cells(run) for run in self._shown]
        columns, widths = self._columns([[text for text, _ in row] for row in cells])
        heading = Text("  ", style="dim", no_wrap=True)
        heading.append("  ".join(_fit(COLUMNS[i], widths[i]) for i in columns))
        self.query_one("#picker-heading", Static).update(heading)
        options = []
        for run, row in zip(self._shown, cells, strict=True):
            line = Text(no_wrap=True)
            line.append("● " if run.path in self.marked else "  ", self.app.current_theme.accent)
            for index in columns:
                text, style = row[index]
                line.append(_fit(text, widths[index]), style).append("  ")
            options.append(Option(line))
        self._list.set_options(options)
        paths = [run.path for run in self._shown]
        self._list.highlighted = paths.index(at) if at in paths else (0 if paths else None)

    def _columns(self, rows: Sequence[Sequence[str]]) -> tuple[list[int], list[int]]:
        """Which columns fit, and the width of each column."""
        widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
        room = self.size.width - 5
        columns = list(range(len(COLUMNS)))
        while len(columns) > 2:
            others = sum(widths[i] + 2 for i in columns[1:])
            if min(widths[0], NAME_WIDTH) + others <= room:
                break
            columns.pop()
        widths[0] = max(8, min(widths[0], room - sum(widths[i] + 2 for i in columns[1:])))
        return columns, widths

    def _cells(self, run: RunSummary) -> list[tuple[str, str]]:
        """The text of each column, and its style."""
        total = f"/{run.total_steps:,}" if run.total_steps else ""
        return [
            (run.name, "bold"),
            (run.state, status_style(run.state, palette_of(self.app.current_theme))),
            (f"{run.step:,}{total}", ""),
            (f"{decimal(run.score)} {run.score_name}", ""),
            (decimal(run.cka), ""),
            (f"{duration(max(0.0, self.clock() - run.modified))} ago", "dim"),
            (run.router, ""),
            (run.similarity, ""),
            (run.recipe_name, ""),
        ]

    def _under_cursor(self) -> Path | None:
        index = self._list.highlighted
        shown = self._shown
        return shown[index].path if index is not None and index < len(shown) else None

    def action_mark(self) -> None:
        path = self._under_cursor()
        if path is None:
            return
        if path in self.marked:
            self.marked.remove(path)
        else:
            self.marked.append(path)
        self._fill()
        self._list.action_cursor_down()

    def action_filter(self) -> None:
        """Type words that the listed runs must have."""
        self._filter.display = True
        self._filter.focus()

    def action_leave_filter(self) -> None:
        """To the list; the filter stays unless it is empty."""
        self._filter.display = bool(self._filter.value)
        self._list.focus()

    def on_input_changed(self) -> None:
        self._fill()

    def action_sort(self) -> None:
        """Sort by the next column."""
        at = SORTED_BY.index(self.sorted_by)
        self.sorted_by = SORTED_BY[(at + 1) % len(SORTED_BY)]
        self._fill()

    def action_unmark(self) -> None:
        """Drop the filter; without one, unmark all runs."""
        if self._filter.display:
            self._filter.value = ""
            self.action_leave_filter()
            return
        self.marked = []
        self._fill()

    def action_open(self) -> None:
        path = self._under_cursor()
        chosen = self.marked or ([path] if path is not None else [])
        if chosen:
            self._open_runs(chosen)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.action_open()

    def commands(self) -> Iterable[SystemCommand]:
        """The commands of the palette on this screen."""
        for run in self.runs:
            yield SystemCommand(
                f"Open {run.name}",
                f"{run.state}, {run.recipe_name} {run.router} {run.similarity}",
                lambda path=run.path: self._open_runs([path]),
                discover=False,
            )


def _searched(run: RunSummary) -> str:
    """What the words of the filter are looked for in."""
    parts = (run.name, run.state, run.router, run.similarity, run.recipe_name)
    return " ".join(parts).lower()


def _best_first(run: RunSummary) -> tuple[bool, str, float]:
    """Runs of the same kind of score together, the best first, those without one last."""
    sign = -1 if run.score_name == "accuracy" else 1
    unknown = math.isnan(run.score)
    return (unknown, run.score_name, 0.0 if unknown else sign * run.score)


_SORT_KEYS: dict[str, Callable[[RunSummary], Any]] = {
    "written": lambda run: (-run.modified, run.name),
    "name": lambda run: run.name,
    "score": _best_first,
    "CKA": lambda run: (math.isnan(run.cka), 0.0 if math.isnan(run.cka) else run.cka),
    "state": lambda run: (run.state, -run.modified),
}


def _fit(text: str, width: int) -> str:
    """The text in `width` cells; where it is longer, it ends with an ellipsis."""
    line = Text(text)
    line.truncate(width, overflow="ellipsis", pad=True)
    return line.plain
