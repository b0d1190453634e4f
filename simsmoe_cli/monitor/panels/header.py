"""The header: which runs are seen, what they are, how far they are and how fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, cast

from rich.text import Text

from simsmoe_cli.monitor.draw.themes import curve_colors
from simsmoe_cli.monitor.panels.drawing import Drawing
from simsmoe_cli.monitor.read.follow import Follower
from simsmoe_cli.monitor.state.alerts import duration
from simsmoe_cli.monitor.state.run import RunHistory, Status

if TYPE_CHECKING:
    from simsmoe_cli.monitor.screens.dashboard import Dashboard

BAR = 12
WIDE = 112  # from here on what a run is stands beside its name


class Header(Drawing):
    """A line for each run, and one or two more for the run chosen.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]):
        super().__init__(id="header")
        self._clock = clock

    @property
    def dashboard(self) -> Dashboard:
        return cast("Dashboard", self.screen)

    def lines_for(self, runs: int, width: int, height: int) -> int:
        """Lines it wants for so many runs in a window of that size."""
        return min(runs + 1 + (width < WIDE), max(3, height // 5))

    def fingerprint(self) -> Hashable:
        now = self._clock()
        # What time alone changes: status and ETA, to the second.
        moving = tuple(
            (run.history.status_at(now), round(run.history.eta_seconds(now) or 0))
            for run in self.dashboard.followers
        )
        versions = tuple(run.version for run in self.dashboard.followers)
        return (moving, versions, self.dashboard.selection.run)

    def draw(self, width: int, height: int) -> Sequence[Text]:
        runs = self.dashboard.followers
        chosen = self.dashboard.selection.run
        narrow = width < WIDE - 2
        room = max(1, height - 1 - narrow)
        first = max(0, min(chosen - room // 2, len(runs) - room))
        lines = []
        for index in range(first, min(len(runs), first + room)):
            line = self._who(runs[index], index, width)
            if not narrow:
                facts = self._facts(runs[index].history, width - line.cell_len - 2)
                line.append(" " * (width - line.cell_len - facts.cell_len)).append_text(facts)
            if index == chosen and len(runs) > 1:
                line.stylize("reverse", 0, 1)
            lines.append(line)
        if narrow:
            lines.append(self._facts(runs[chosen].history, width))
        lines.append(self._where(runs[chosen].history, width))
        return lines

    def _who(self, run: Follower, index: int, width: int) -> Text:
        """Name and state."""
        colors = curve_colors(self.app.current_theme.dark)
        status = run.history.status_at(self._clock())
        words = f"  {status_words(run, status)}"
        progress = run.history.progress
        if status == "training" and math.isfinite(progress) and len(self.dashboard.followers) > 1:
            words += f" {progress:.0%}"  # the line below tells it of the chosen run alone
        line = Text(no_wrap=True).append("● ", colors[index % len(colors)])
        name = Text(run.history.name, style="bold")
        name.truncate(max(8, width - 2 - len(words)), overflow="ellipsis")
        return line.append_text(name).append(words, self._status_style(status))

    def _facts(self, history: RunHistory, width: int) -> Text:
        """What the run is."""
        facts = [
            history.recipe_name,
            history.router,
            f"similarity {history.similarity}" if history.similarity else "",
            f"{millions(history.parameters)} parameters" if history.parameters else "",
            " ".join(part for part in (history.device, history.precision) if part),
        ]
        line = Text(" · ".join(fact for fact in facts if fact), style="dim", no_wrap=True)
        line.truncate(max(0, width), overflow="ellipsis")
        return line

    def _where(self, history: RunHistory, width: int) -> Text:
        """Progress, speed and score; without the bar where it would take their place."""
        theme = self.app.current_theme
        progress = history.progress
        parts = [Text()]
        if not math.isnan(progress):
            done = round(BAR * progress)
            parts[0].append("━" * done, theme.primary or "").append("━" * (BAR - done), "dim")
            parts[0].append(f" {progress:.0%}")
        of = f"/{history.total_steps:,}" if history.total_steps else ""
        eta = history.eta_seconds(self._clock())
        rate = history.last("tokens_per_s")
        told = [
            ("step ", f"{history.step:,}{of}"),
            ("ETA ", "–" if eta is None else duration(eta)),
            ("", f"{rate:,.0f} tokens/s" if math.isfinite(rate) else "– tokens/s"),
        ]
        if math.isfinite(history.best_score):
            told.append(("best ", f"{history.best_score:.3f} at {history.best_step:,}"))
        if math.isfinite(history.test_score):
            told.append(("test ", f"{history.test_score:.3f}"))
        parts += [Text.assemble((label, "dim"), value) for label, value in told]
        between = Text(" · ", style="dim")
        line = between.join([part for part in parts if part])
        if line.cell_len > width:
            line = between.join(parts[1:])
        line.truncate(width, overflow="ellipsis")
        return line

    def _status_style(self, status: Status) -> str:
        theme = self.app.current_theme
        return {
            "training": f"bold {theme.primary}",
            "finished": f"bold {theme.success}",
            "waiting": "dim",
            "stopped": f"bold {theme.warning}",
            "stale": f"bold {theme.warning}",
            "failed": f"bold {theme.error}",
        }[status]


def status_words(run: Follower, status: Status) -> str:
    """The state of a run, and what is odd about its files."""
    if run.history.missing and run.history.total_events:
        return f"{status}, its events are gone"
    if not run.caught_up and run.history.total_events:
        return f"{status}, reading"
    return status


def millions(count: int) -> str:
    """A count as a person says it: 950, 12.3 k, 4.56 M, 1.2 G."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)
