"""A panel: words about it, its keys, and one pure function that draws it.

Panels know no terminal and no Textual. The dashboard gives each a widget
(screens/panel_widget.py); `--once` prints the lines it draws.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.text import Text

from simsmoe_cli.monitor.draw.heatmap import Layout
from simsmoe_cli.monitor.draw.text import cut, message, side_by_side
from simsmoe_cli.monitor.view import View

T = TypeVar("T")

LEAST_RUN_WIDTH, LEAST_RUN_HEIGHT = 20, 7  # of the picture of one run among others
GAP = 2  # cells between pictures


@dataclass(frozen=True)
class HeatMap:
    """A heat map inside a picture, whose cells can be clicked.

    Attributes:
        run: whose it is.
        x, y: where it begins in the picture.
        layout: where its cells are, from there.
    """

    run: int
    x: int
    y: int
    layout: Layout


@dataclass(frozen=True)
class Picture:
    """The picture that a panel has drawn.

    Attributes:
        lines: at most as many, and as wide, as it was asked for.
        note: a few words on the lower edge of its frame.
        title: on the upper edge; "" for the panel's own.
        maps: heat maps whose cells can be clicked.
        scroll: the scroll position of the view, limited to the possible range.
        empty: whether there is nothing to show yet, and the lines only say so.
    """

    lines: Sequence[Text]
    note: str = ""
    title: str = ""
    maps: Sequence[HeatMap] = ()
    scroll: int = 0
    empty: bool = False


@dataclass(frozen=True)
class Key:
    """A key of a panel.

    Attributes:
        keys: their names in Textual, separated by commas.
        action: from a view and the width of the panel to the view after the key; or the name of an
            action of the dashboard, with its arguments.
        label: in the footer; "" leaves the key out there.
        help: what it does.
        group: keys of the same group share this one label.
        display: how the key is written; "" for its name.
    """

    keys: str
    action: Callable[[View, int], View] | str
    label: str
    help: str
    group: str = ""
    display: str = ""


def shows_probes(view: View) -> Hashable:
    """Everything that a panel of probes depends on; it does not change with every training step."""
    probes = tuple(
        (frames, len(frames), frames[-1].step if len(frames) else None)
        for run in view.runs
        for frames in (run.history.routers, run.history.similarities)
    )
    return (probes, tuple(run.history.total_events > 0 for run in view.runs), view.selection)


def shows_series(view: View) -> Hashable:
    """Everything that a panel of curves depends on."""
    selection = view.selection
    versions = tuple((run.history, run.version) for run in view.runs)
    return (versions, selection.run, selection.at, selection.by_time, selection.smooth)


def _some(view: View, width: int) -> int:
    return 16


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        id: of its widget.
        title: on its frame.
        short: in the row of tabs.
        about: for the help: what it shows and how to read it.
        draw: from a view, a width and a height, at least 1 each, to a picture of that size.
        depends_on: everything that the picture depends on except size and colours; it is drawn
            again when this changes.
        keys: that act while it has the focus.
        click: from a view, and run, row and column of a clicked cell, to the view after it.
        height: from a view and a width to the lines that show everything, for `--once`.
        wide: whether `--once` gives it the whole width.
        series: names of the series whose curves it shows, for a file; None if it has none.
    """

    id: str
    title: str
    short: str
    about: str
    draw: Callable[[View, int, int], Picture]
    depends_on: Callable[[View], Hashable] = shows_probes
    keys: tuple[Key, ...] = ()
    click: Callable[[View, int, int, int], View] | None = None
    height: Callable[[View, int], int] = _some
    wide: bool = False
    series: Callable[[View], Sequence[str]] | None = None


# Keys of the panels that compare experts.
PROBE_KEYS = (
    Key("up", "screen.layer(-1)", "Layer before", "The layer before", "Layer"),
    Key("down", "screen.layer(1)", "Next layer", "The next layer", "Layer"),
    Key("left", "screen.probe(-1)", "Probe before", "Back over training, probe by probe", "Probe"),
    Key(
        "right",
        "screen.probe(1)",
        "Next probe",
        "Forward over training; at the end, follow the newest probe",
        "Probe",
    ),
    Key("home", "screen.probe(-1000000)", "", "The first probe"),
    Key("end", "screen.probe(1000000)", "", "The newest probe, and follow it"),
    Key("space", "screen.play", "", "Play over training, or stop"),
)


@dataclass(frozen=True)
class RunGrid:
    """Where the pictures of several runs are: side by side, and in a second row if there is room.

    Attributes:
        runs: those that fit, the chosen one among them.
        columns: pictures side by side.
        width, height: of each picture, with its heading.
    """

    runs: range
    columns: int
    width: int
    height: int

    def beside(
        self,
        view: View,
        found: Mapping[int, T | None],
        draw: Callable[[int, T, int], tuple[Sequence[Text], Layout | None]],
        missing: Callable[[int], str],
        heading: Callable[[T], str] = lambda _: "",
    ) -> tuple[list[Text], list[HeatMap]]:
        """The pictures, each under the name of its run.

        Args:
            view: if it has only one run, this run has no heading.
            found: the probe of each run, by the run's index; None if it has none.
            draw: from a run, its probe and the number of lines for its picture to the picture, and
                to the layout of its cells if it is a heat map.
            missing: from a run without a probe to a message that says so.
            heading: more words after the name, if there is room.
        """
        lines: list[Text] = []
        maps: list[HeatMap] = []
        for first in range(0, len(found), self.columns):
            row = list(found.items())[first : first + self.columns]
            blocks = []
            for column, (run, known) in enumerate(row):
                words = heading(known) if known is not None else ""
                block = [_run_heading(view, run, self.width, words)] if view.several else []
                if known is None:
                    block.append(Text(missing(run), style="dim"))
                else:
                    above = len(block)
                    drawn, layout = draw(run, known, max(1, self.height - above))
                    block += drawn
                    if layout is not None:
                        x, y = column * (self.width + GAP), len(lines) + above
                        maps.append(HeatMap(run, x, y, layout))
                blocks.append(block)
            lines += side_by_side(blocks, self.width, GAP)
        return lines, maps


def run_grid(view: View, width: int, height: int) -> RunGrid:
    """Room for as many runs as fit into a space."""
    runs = len(view.runs)
    columns = max(1, min(runs, (width + GAP) // (LEAST_RUN_WIDTH + GAP)))
    rows = max(1, min(-(-runs // columns), height // LEAST_RUN_HEIGHT))
    columns = min(columns, -(-runs // rows))
    count = min(runs, rows * columns)
    first = max(0, min(view.selection.run - count // 2, runs - count))
    room = (width - GAP * (columns - 1)) // columns
    return RunGrid(range(first, first + count), columns, room, height // rows)


def _run_heading(view: View, run: int, width: int, words: str) -> Text:
    line = Text(no_wrap=True).append("● ", view.color_of(run))
    name = view.runs[run].history.name
    cut(line.append(name, "bold" if run == view.selection.run else "not bold"), width)
    if words and line.cell_len + 2 + len(words) <= width:
        line.append(f"  {words}", "dim")
    return line


def waiting(view: View, for_what: str, width: int, height: int) -> Picture:
    """A few words where there is nothing to show yet."""
    text = f"No {for_what} yet."
    if all(run.history.total_events == 0 for run in view.runs):
        path = view.runs[0].history.path
        text = f"Waiting for {path.name}: there are no events in {path} yet."
    return Picture(message(text, width, height), empty=True)
