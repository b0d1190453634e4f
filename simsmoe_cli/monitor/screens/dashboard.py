"""The dashboard: the panels of one or several runs, and the keys that act on all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from textual import events
from textual.app import ComposeResult, SystemCommand
from textual.binding import BindingType
from textual.containers import Grid
from textual.message import Message
from textual.reactive import reactive
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Footer

from simsmoe_cli.monitor import csv_file
from simsmoe_cli.monitor.panels import PANELS, header
from simsmoe_cli.monitor.read.follow import Follower, Following, News
from simsmoe_cli.monitor.screens.header_and_tabs import HeaderBar, Tab, Tabs
from simsmoe_cli.monitor.screens.keys import DASHBOARD_KEYS
from simsmoe_cli.monitor.screens.layout import Page, page_of, pages
from simsmoe_cli.monitor.screens.message_line import MessageLine
from simsmoe_cli.monitor.screens.panel_widget import PanelWidget, panel_widget
from simsmoe_cli.monitor.screens.themes import palette_of
from simsmoe_cli.monitor.state.alerts import Thresholds
from simsmoe_cli.monitor.view import Selection, ShownRun, View
from simsmoe_cli.run.find import names_of

PLAY_EVERY_S = 0.25
DRAW_WHILE_READING_S = 2.0
REST = 50  # pause between two pictures of a live run, as a multiple of the time to draw one


@dataclass
class Changed(Message):
    """The runs have changed; posted by the thread that follows them."""

    news: list[News]


class Dashboard(Screen[None]):
    """All panels of some runs.

    Args:
        paths: the run folders, in order.
        thresholds: when to alert.
        interval: seconds between two looks at the files.
        clock: seconds since the epoch.
        open_picker: shows the list of runs instead.
    """

    BINDINGS: ClassVar[list[BindingType]] = DASHBOARD_KEYS

    selection: reactive[Selection] = reactive(Selection())

    def __init__(
        self,
        paths: Sequence[Path],
        thresholds: Thresholds,
        interval: float,
        clock: Callable[[], float],
        open_picker: Callable[[], None],
    ):
        super().__init__()
        self.clock = clock
        self.action_open = open_picker
        self.followers = tuple(
            Follower(path, thresholds, clock, name)
            for path, name in zip(paths, names_of(paths), strict=True)
        )
        self.following = Following(self.followers, interval, self._tell)
        self.panels = tuple(
            panel_widget(panel, number, self.view, self._select, self.following.lock)
            for number, panel in enumerate(PANELS, 1)
        )
        self.header = HeaderBar(self.view)
        self.tabs = Tabs()
        self.messages = MessageLine()
        self._zoomed = False
        self._drawn_at = -math.inf
        self._draw_s = 0.0
        self._to_draw: Timer | None = None
        self._seen_alerts = 0
        self._player: Timer | None = None

    def compose(self) -> ComposeResult:
        yield self.header
        yield self.tabs
        yield Grid(*self.panels, id="panels")
        yield Footer(compact=True)
        yield self.messages

    def on_mount(self) -> None:
        self.panels[0].focus()
        self.following.start()
        self.set_interval(1.0, self._update_header)

    def _update_header(self) -> None:
        """Draw the header again, whose times pass."""
        with self.following.lock:
            self.header.update()

    def on_unmount(self) -> None:
        self.following.stop()

    def view(self) -> View:
        """The view that the panels are drawn from."""
        runs = (
            ShownRun(run.history, run.version, reading=not run.caught_up) for run in self.followers
        )
        palette = palette_of(self.app.current_theme)
        return View(tuple(runs), self.selection, palette, self.clock())

    # Layout

    def on_resize(self, event: events.Resize) -> None:
        self._arrange(event.size.width, event.size.height)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        self._arrange(*self.size)

    def _arrange(self, width: int, height: int) -> None:
        """Show the panels that fit, among them the one in focus."""
        above = header.height(len(self.followers), width - 2, height)
        focused = self._focused_index()
        body = height - above - 1
        runs = len(self.followers)
        found = pages(len(self.panels), width, body, runs)
        if len(found) > 1 or self._zoomed:
            found = pages(len(self.panels), width, body - 1, runs)
        page = Page((focused,), 1, False) if self._zoomed else page_of(focused, found)
        self.tabs.display = len(page.panels) < len(self.panels)
        self.header.styles.height = above
        grid = self.query_one("#panels", Grid)
        grid.styles.grid_size_columns = page.columns
        grid.styles.grid_size_rows = page.rows
        low = 6 + max(0, min(6, (body - 40) // 4))
        grid.set_class(page.low_last, "-low-last")
        grid.styles.grid_rows = ("1fr " * (page.rows - 1) + str(low)) if page.low_last else "1fr"
        for index, panel in enumerate(self.panels):
            panel.display = index in page.panels
            panel.styles.column_span = page.last_span if index == page.panels[-1] else 1
        self._update_tabs()
        self.query_one(Footer).show_command_palette = width >= 100
        self.refresh_bindings()

    def _focused_index(self) -> int:
        return self.panels.index(self.focused) if isinstance(self.focused, PanelWidget) else 0

    def _update_tabs(self) -> None:
        focused = self._focused_index()
        events_index = len(self.panels) - 1
        alerts = sum(len(run.history.alerts) for run in self.followers)
        if self.panels[events_index].display:
            self._seen_alerts = alerts
        self.tabs.tabs = tuple(
            Tab(
                panel.panel.short,
                bool(panel.display),
                index == focused,
                index == events_index and alerts > self._seen_alerts,
            )
            for index, panel in enumerate(self.panels)
        )
        self.tabs.update()

    # What changes

    def _tell(self, news: list[News]) -> None:
        self.post_message(Changed(news))

    def on_changed(self, message: Changed) -> None:
        with self.following.lock:
            self._keep_selection_valid()
            self.header.update()
        self._draw_soon()
        for news in message.news:
            self.messages.tell(news.run, news.severity, news.text)

    def _draw_soon(self) -> None:
        """Draw changes now, or later if the last picture is too new. So drawing takes a bounded
        share of the processor, however fast events come and however slow the machine is."""
        reading = not all(run.caught_up for run in self.followers)
        # While events are still being read, drawing would only delay the reading.
        rest_s = DRAW_WHILE_READING_S if reading else REST * self._draw_s
        left_s = self._drawn_at + rest_s - time.monotonic()
        if self._to_draw is not None:
            self._to_draw.stop()
            self._to_draw = None
        if left_s > 0:
            self._to_draw = self.set_timer(left_s, self._draw)
        else:
            self._draw()

    def _draw(self) -> None:
        self._to_draw = None
        began = time.thread_time()
        self.update_panels()
        self._update_tabs()
        self._draw_s, self._drawn_at = time.thread_time() - began, time.monotonic()

    @property
    def drawn(self) -> bool:
        """Whether the panels show everything that was read."""
        return self._to_draw is None

    def watch_selection(self) -> None:
        if self.is_mounted:
            self.header.update()
            self.update_panels()

    def update_panels(self) -> None:
        """Draw the panels that have changed."""
        with self.following.lock:
            for panel in self.panels:
                panel.update()

    @property
    def chosen(self) -> Follower:
        """The run that keys act on."""
        return self.followers[self.selection.run]

    def choose(self, **fields: Any) -> None:
        """Change the selection."""
        self._select(replace(self.selection, **fields))

    def _select(self, selection: Selection) -> None:
        self.selection = selection

    def _keep_selection_valid(self) -> None:
        layers = self.chosen.history.layers
        if layers and self.selection.layer not in layers:
            self.choose(layer=layers[0])

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide keys that would do nothing here."""
        if action == "zoom":
            return self._zoomed or sum(bool(panel.display) for panel in self.panels) > 1
        if action == "run":
            return len(self.followers) > 1
        return True

    def action_panel(self, by: int) -> None:
        self.action_go((self._focused_index() + by) % len(self.panels))

    def action_go(self, index: int) -> None:
        """Show a panel and give it the focus."""
        panel = self.panels[index]
        panel.display = True
        panel.focus(scroll_visible=False)

    def action_zoom(self) -> None:
        self._zoomed = not self._zoomed
        self._arrange(*self.size)

    def action_back(self) -> None:
        """Undo, one thing at a time."""
        selection = self.selection
        if self.messages.told:
            self.messages.hide()
        elif self._player is not None:
            self._stop_playing()
        elif selection.at is not None or selection.pair or selection.expert is not None:
            self.choose(at=None, pair=None, expert=None)
        elif self._zoomed:
            self.action_zoom()
        else:
            self.choose(step=None)

    def action_export(self) -> None:
        """Save the curves of the panel in focus."""
        with self.following.lock:
            severity, words = csv_file.saved(
                self.view(), self.panels[self._focused_index()].panel, Path()
            )
        self.messages.tell("", severity, words)

    def action_toggle_time(self) -> None:
        self.choose(by_time=not self.selection.by_time, at=None)

    def action_run(self, by: int) -> None:
        self.choose(run=(self.selection.run + by) % len(self.followers))
        self._keep_selection_valid()

    def action_layer(self, by: int) -> None:
        """Choose another layer."""
        layers = self.chosen.history.layers
        if layers:
            here = layers.index(self.selection.layer) if self.selection.layer in layers else 0
            self.choose(layer=layers[max(0, min(len(layers) - 1, here + by))])

    def action_probe(self, by: int) -> None:
        """Choose another probe of the chosen run; at the last one, follow the newest."""
        self._stop_playing()
        self._scrub(by)

    def _scrub(self, by: int) -> bool:
        frames = self.chosen.history.similarities
        if not len(frames):
            return False
        last = len(frames) - 1
        here = last if self.selection.step is None else frames.at(self.selection.step)
        there = max(0, min(last, here + by))
        self.choose(step=None if there == last else frames[there].step)
        return there < last

    def action_play(self) -> None:
        """Play the probes over training, from the beginning if the last one is seen."""
        if self._player is not None:
            self._stop_playing()
            return
        if self.selection.step is None and len(self.chosen.history.similarities) > 1:
            self.choose(step=self.chosen.history.similarities[0].step)
        self._player = self.set_interval(PLAY_EVERY_S, self._play_on)

    @property
    def playing(self) -> bool:
        """Whether the probes are being played."""
        return self._player is not None

    @property
    def zoomed(self) -> bool:
        """Whether one panel is seen alone because it was asked for."""
        return self._zoomed

    def _play_on(self) -> None:
        if not self._scrub(1):
            self._stop_playing()

    def _stop_playing(self) -> None:
        if self._player is not None:
            self._player.stop()
            self._player = None

    def on_tabs_chosen(self, message: Tabs.Chosen) -> None:
        self.action_go(message.index)

    def commands(self) -> Iterable[SystemCommand]:
        """Commands of the palette on this screen."""
        for index, panel in enumerate(self.panels):
            yield SystemCommand(
                f"Panel: {panel.panel.title}",
                f"Key {index + 1}",
                lambda index=index: self.action_go(index),
            )
        yield SystemCommand("Zoom", "This panel alone, or all again", self.action_zoom)
        yield SystemCommand("Steps or hours", "X axis of the curves", self.action_toggle_time)
        yield SystemCommand("Play", "Play the probes over training", self.action_play)
        yield SystemCommand("Curves", "Save those of this panel as CSV", self.action_export)
        yield SystemCommand("Runs", "Choose other runs", self.action_open)
        for layer in self.chosen.history.layers:
            yield SystemCommand(
                f"Layer {self.chosen.history.label(layer)}",
                "Compare the experts of this layer",
                lambda layer=layer: self.choose(layer=layer),
                discover=False,
            )
