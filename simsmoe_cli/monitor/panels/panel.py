"""What every panel of the dashboard is: a framed drawing that reads the runs and the selection."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.binding import Binding, BindingType

from simsmoe_cli.monitor.draw.themes import curve_colors
from simsmoe_cli.monitor.panels.drawing import Drawing
from simsmoe_cli.monitor.read.follow import Follower
from simsmoe_cli.monitor.state.selection import Selection

if TYPE_CHECKING:
    from simsmoe_cli.monitor.screens.dashboard import Dashboard

_LAYER = Binding.Group("Layer", compact=True)
_PROBE = Binding.Group("Probe", compact=True)

# Keys of the panels that compare experts.
PROBE_BINDINGS: list[BindingType] = [
    Binding(
        "up",
        "screen.layer(-1)",
        "Layer before",
        id="probe.up",
        group=_LAYER,
        tooltip="The layer before",
    ),
    Binding(
        "down",
        "screen.layer(1)",
        "Next layer",
        id="probe.down",
        group=_LAYER,
        tooltip="The next layer",
    ),
    Binding(
        "left",
        "screen.probe(-1)",
        "Probe before",
        id="probe.left",
        group=_PROBE,
        tooltip="Back over training, probe by probe",
    ),
    Binding(
        "right",
        "screen.probe(1)",
        "Next probe",
        id="probe.right",
        group=_PROBE,
        tooltip="Forward over training; at the end, follow the newest probe",
    ),
    Binding(
        "home",
        "screen.probe(-1000000)",
        "First probe",
        id="probe.home",
        show=False,
        tooltip="The first probe",
    ),
    Binding(
        "end",
        "screen.probe(1000000)",
        "Newest probe",
        id="probe.end",
        show=False,
        tooltip="The newest probe, and follow it",
    ),
    Binding("space", "screen.play", "Play", id="probe.play", tooltip="Play over training, or stop"),
]


class Panel(Drawing, can_focus=True):
    """One panel.

    Class attributes:
        TITLE: on its frame.
        SHORT: in the row of tabs.
        ABOUT: what it shows and how to read it, for the help.

    Attributes:
        above, below: on the frame; a drawing sets them.
    """

    TITLE: ClassVar[str]
    SHORT: ClassVar[str]
    ABOUT: ClassVar[str]

    def __init__(self, *, id: str):
        super().__init__(id=id)
        self.above = self.TITLE
        self.below = ""
        self._on_frame = ("", "")

    @property
    def dashboard(self) -> Dashboard:
        return cast("Dashboard", self.screen)

    @property
    def runs(self) -> Sequence[Follower]:
        return self.dashboard.followers

    @property
    def selection(self) -> Selection:
        return self.dashboard.selection

    @property
    def curve_colors(self) -> tuple[str, ...]:
        """Colours of curves on the theme in force."""
        return curve_colors(self.app.current_theme.dark)

    def color_of(self, run: int) -> str:
        """The colour of a run."""
        return self.curve_colors[run % len(self.curve_colors)]

    @property
    def chosen_label(self) -> str:
        """What the chosen run's model calls the chosen layer."""
        return self.dashboard.chosen.history.label(self.selection.layer)

    def fingerprint(self) -> Hashable:
        """For the panels of probes: these do not change with every training step."""
        probes = tuple(
            (frames, len(frames), frames[-1].step if len(frames) else None)
            for run in self.runs
            for frames in (run.history.routers, run.history.similarities)
        )
        began = tuple(run.history.total_events > 0 for run in self.runs)
        return (probes, began, self.selection)

    def on_mount(self) -> None:
        self.label_frame()

    def redraw(self) -> None:
        with self.dashboard.following.lock:
            super().redraw()
        # Not at once: the frame may be being painted just now.
        self.call_next(self.label_frame)

    def label_frame(self) -> None:
        """Write what the drawing says about itself on its frame."""
        above = f"{self.dashboard.number_of(self)} {self.above}"
        if self._on_frame != (above, self.below):
            self._on_frame = (above, self.below)
            self.border_title, self.border_subtitle = Text(above), Text(self.below)

    def run_heading(self, run: int, width: int, told: str = "") -> Text:
        """The name of a run above its picture, and something more where there is room."""
        line = Text(no_wrap=True).append("● ", self.color_of(run))
        name = self.runs[run].history.name
        line.append(name, "bold" if run == self.selection.run else "not bold")
        line.truncate(width, overflow="ellipsis")
        if told and line.cell_len + 2 + len(told) <= width:
            line.append(f"  {told}", "dim")
        return line

    def message(self, text: str, width: int, height: int) -> list[Text]:
        """A few words in the middle, where there is nothing to draw yet."""
        self.below = ""
        words = Text(text, style="dim").wrap(self.app.console, max(1, min(width - 2, 60)))
        lines = [Text() for _ in range(max(0, (height - len(words)) // 2))]
        for line in words:
            line.rstrip()
            line.pad_left(max(0, (width - line.cell_len) // 2))
            lines.append(line)
        return lines

    def waiting(self, for_what: str, width: int, height: int) -> list[Text]:
        """What is said where there is nothing to show yet."""
        if all(run.history.total_events == 0 for run in self.runs):
            path = self.runs[0].path
            text = f"Waiting for {path.name}: there are no events in {path} yet."
        else:
            text = f"No {for_what} yet."
        return self.message(text, width, height)
