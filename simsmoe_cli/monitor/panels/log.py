"""What the chosen run printed, the newest at the bottom, as in a terminal."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import partial

from rich.text import Text

from simsmoe_cli.monitor.draw.text import message, wrapped
from simsmoe_cli.monitor.panels.panel import Key, Panel, Picture, waiting
from simsmoe_cli.monitor.view import View


def draw(view: View, width: int, height: int) -> Picture:
    """The last lines, up to `view.scroll` lines before the newest."""
    printed = view.chosen.printed
    title = f"Printed by {view.chosen.name}" if view.several else ""
    if not view.chosen.total_events and not printed:
        return waiting(view, "line", width, height)
    if not printed:
        words = "This run kept nothing of what it printed."
        return Picture(message(words, width, height), title=title, empty=True)
    scroll = max(0, min(view.scroll, len(printed) - 1))
    last = len(printed) - scroll
    lines: list[Text] = []
    first = last
    while first and len(lines) < height:
        first -= 1
        head = printed[first].startswith("--- ")  # of a session
        lines = wrapped(Text(printed[first], "dim" if head else ""), width) + lines
    note = f"{first + 1:,}–{last:,} of {len(printed):,} lines" if scroll else ""
    return Picture(lines[-height:], note, title, scroll=scroll)


def _depends_on(view: View) -> Hashable:
    return (view.selection.run, view.chosen.printed, view.chosen.total_events > 0)


def _scroll(view: View, _width: int, lines: int) -> View:
    return replace(view, scroll=max(0, view.scroll + lines))


def _height(view: View, _width: int) -> int:
    return min(12, max(1, len(view.chosen.printed)))


PANEL = Panel(
    id="log",
    title="Printed",
    short="Log",
    about=(
        "What the training process printed, errors too: the end of log.txt in the run folder, the "
        "newest line at the bottom. Lines that begin with --- say when a process began and by "
        "which command. Of several runs, the chosen one; r chooses the next."
    ),
    draw=draw,
    depends_on=_depends_on,
    keys=(
        Key("up,k", partial(_scroll, lines=1), "Older", "Older lines", display="↑"),
        Key("down,j", partial(_scroll, lines=-1), "Newer", "Newer lines", display="↓"),
        Key("pageup", partial(_scroll, lines=10), "", "Older lines, ten at once"),
        Key("pagedown", partial(_scroll, lines=-10), "", "Newer lines, ten at once"),
        Key("home", partial(_scroll, lines=100_000), "", "Oldest line"),
        Key("end", partial(_scroll, lines=-100_000), "Newest", "Newest line"),
    ),
    height=_height,
    wide=True,
)
