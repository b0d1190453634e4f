"""Help: about the panel in focus, every key that acts now, and facts about the runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Footer, Static

from simsmoe_cli.monitor.read.follow import Follower
from simsmoe_cli.monitor.screens.dashboard import Dashboard
from simsmoe_cli.monitor.screens.keys import HELP_KEYS
from simsmoe_cli.monitor.screens.panel_widget import PanelWidget


class Help(ModalScreen[None]):
    """A page over the screen that it explains.

    Args:
        of: that screen.
    """

    BINDINGS: ClassVar[list[BindingType]] = HELP_KEYS

    def __init__(self, of: Screen[object]):
        super().__init__()
        self._of = of

    def compose(self) -> ComposeResult:
        panel = self._of.focused
        facts = _facts(self._of.followers) if isinstance(self._of, Dashboard) else []
        with VerticalScroll(id="help"):
            if isinstance(panel, PanelWidget):
                yield Static(Text(panel.panel.title, style="bold"), classes="heading")
                yield Static(Text(panel.panel.about))
            for heading, keys in self._keys().items():
                yield Static(Text(heading, style="bold"), classes="heading")
                yield Static(_table(keys))
            for heading, rows in facts:
                yield Static(Text(heading, style="bold"), classes="heading")
                yield Static(_table(rows))
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one("#help").border_title = "Help"

    def _keys(self) -> dict[str, list[tuple[str, str]]]:
        """Heading -> (keys, their help), the keys of the focused panel first."""
        found: dict[str, dict[str, list[str]]] = {}
        for node, binding, enabled, tooltip in self._of.active_bindings.values():
            if not binding.id or not enabled:
                continue
            if isinstance(node, PanelWidget):
                heading = "Keys of this panel"
            elif node is self.app:
                heading = "Anywhere"
            else:
                heading = "Keys of this screen"
            keys = found.setdefault(heading, {}).setdefault(tooltip or binding.description, [])
            keys.append(self.app.get_key_display(binding))
        order = ("Keys of this panel", "Keys of this screen", "Anywhere")
        return {
            heading: [(" ".join(keys), what) for what, keys in found[heading].items()]
            for heading in order
            if heading in found
        }


def _table(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="bold", no_wrap=True, min_width=13)
    table.add_column()
    for keys, what in rows:
        table.add_row(Text(keys), Text(what))
    return table


def _facts(runs: Iterable[Follower]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Facts about each run: a heading, and names and values."""
    found = []
    for run in runs:
        history = run.history
        tokens = history.tokens_per_step
        rows = [
            ("folder", str(run.path)),
            ("recipe", history.recipe_name),
            ("router", history.router),
            ("similarity", history.similarity),
            ("parameters", "" if history.parameters is None else f"{history.parameters:,}"),
            ("tokens per step", "" if not tokens else f"{tokens:,}"),
            ("device", f"{history.device} {history.precision}".strip()),
            ("ended", history.reason),
        ]
        found.append((f"Run {history.name}", [(name, value or "–") for name, value in rows]))
    return found
