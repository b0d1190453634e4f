"""The view that panels are drawn from: runs, a selection in them, and colours; one read-only value.

The dashboard makes a view for every drawing, `--once` makes one for each run it prints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from simsmoe_cli.monitor.draw.palette import Palette
from simsmoe_cli.monitor.state.probes import Frame, Frames
from simsmoe_cli.monitor.state.run import RunHistory

F = TypeVar("F", bound=Frame)


@dataclass(frozen=True)
class MatrixChoice:
    """How matrices of experts against experts are shown.

    Attributes:
        clustered: similar experts stand together, instead of in the order of their numbers.
        above: only pairs above this value; None for all.
        compare: "probe" shows the change since the base probe, "run" the difference to the first
            run.
        base: step of the base probe; None for the first.
        listed: the top pairs as a list.
        on_shared: CKA on the tokens that both experts of a pair were given.
    """

    clustered: bool = False
    above: float | None = None
    compare: Literal["", "probe", "run"] = ""
    base: int | None = None
    listed: bool = False
    on_shared: bool = False


@dataclass(frozen=True)
class Selection:
    """The choices made in the dashboard.

    Attributes:
        run: index of the run that keys act on.
        layer: the layer whose experts are compared, by its index among the layers with experts.
        step: the probe shown is the last one up to this step; None follows the newest.
        pair: two experts; None while no pair is chosen.
        expert: an expert in the map of loads; None while none is chosen.
        at: the step of the cursor on the curves; None while there is no cursor.
        by_time: curves are drawn against the time since the run began instead of steps.
        matrix: how matrices of experts are shown.
        smooth: curves of training are running means over this many points; 0 for the points.
    """

    run: int = 0
    layer: int = 0
    step: int | None = None
    pair: tuple[int, int] | None = None
    expert: int | None = None
    at: float | None = None
    by_time: bool = False
    smooth: int = 0
    matrix: MatrixChoice = MatrixChoice()


@dataclass(frozen=True)
class ShownRun:
    """One run of a view.

    Attributes:
        history: everything read about it.
        version: grows whenever the history changes.
        reading: whether events that are already in the file are still being read.
    """

    history: RunHistory
    version: int = 0
    reading: bool = False


@dataclass(frozen=True)
class View:
    """Everything that a drawing depends on, except its size.

    Attributes:
        runs: at least one.
        selection: the choices made in them.
        palette: colours.
        now: seconds since the epoch.
        color: False uses characters instead of colours.
        scroll: rows by which the panel that is drawn was scrolled, or the number of another choice
            that only this panel knows.
    """

    runs: tuple[ShownRun, ...]
    selection: Selection
    palette: Palette
    now: float
    color: bool = True
    scroll: int = 0

    @property
    def several(self) -> bool:
        """Whether there is more than one run."""
        return len(self.runs) > 1

    @property
    def chosen(self) -> RunHistory:
        """The run that keys act on."""
        return self.runs[self.selection.run].history

    @property
    def layer_label(self) -> str:
        """The label of the chosen layer in the chosen run."""
        return self.chosen.label(self.selection.layer)

    def color_of(self, run: int) -> str:
        """The colour of a run, given its index."""
        return self.palette.curves[run % len(self.palette.curves)]

    def probe(self, frames: Frames[F]) -> F | None:
        """The probe to show: the last one up to the chosen step; None if there are no probes."""
        if not len(frames):
            return None
        step = self.selection.step
        return frames[len(frames) - 1 if step is None else frames.at(step)]

    def step_text(self, step: int) -> str:
        """The step of a probe in words, which say whether the newest one is followed."""
        return f"step {step:,}" + (" newest" if self.selection.step is None else "")

    def choose(self, **fields: Any) -> View:
        """This view with some fields of the selection changed."""
        return replace(self, selection=replace(self.selection, **fields))
