"""The header: which runs are seen, what they are, how far they are and how fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, cast

from rich.text import Text

from simsmoe_cli.monitor.alerts import duration
from simsmoe_cli.monitor.follow import Follower
from simsmoe_cli.monitor.history import RunHistory, Status
from simsmoe_cli.monitor.themes import curve_colors
from simsmoe_cli.monitor.widgets.drawing import Drawing

if TYPE_CHECKING:
    from simsmoe_cli.monitor.screens.dashboard import Dashboard

BAR = 12


class Header(Drawing):
    """Two lines for a single run; for several a line each, and one more for the run chosen.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]):
        super().__init__(id="header")
        self._clock = clock

    @property
    def dashboard(self) -> Dashboard:
        return cast("Dashboard", self.screen)

    def lines_for(self, runs: int, height: int) -> int:
        """Lines it wants for so many runs in a window of that height."""
        return 2 if runs == 1 else min(runs + 1, max(3, height // 5))

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
        if len(runs) == 1:
            return [self._who(runs[0], 0, width), self._where(runs[0].history, width)]
        first = max(0, min(chosen - (height - 2) // 2, len(runs) - (height - 1)))
        lines = []
        for index in range(first, min(len(runs), first + height - 1)):
            line = self._who(runs[index], index, width)
            if index == chosen:
                line.stylize("reverse", 0, 1)
            lines.append(line)
        lines.append(self._where(runs[chosen].history, width))
        return lines

    def _who(self, run: Follower, index: int, width: int) -> Text:
        """Name and state on the left, what it is on the right."""
        theme = self.app.current_theme
        colors = curve_colors(theme.dark)
        history = run.history
        left = Text("● ", style=colors[index % len(colors)])
        left.append(history.name, "bold")
        status = history.status_at(self._clock())
        left.append(f"  {status_words(run, status)}", self._status_style(status))
        facts = [
            history.recipe_name,
            history.router,
            f"similarity {history.similarity}" if history.similarity else "",
            f"{millions(history.parameters)} parameters" if history.parameters else "",
            " ".join(part for part in (history.device, history.precision) if part),
        ]
        facts = [fact for fact in facts if fact]
        right = Text(" · ".join(facts), style="dim")
        if left.cell_len + 2 + right.cell_len > width:
            facts = [fact for fact in facts if not fact.endswith("parameters")]
            right = Text(" · ".join(facts), style="dim")
        if left.cell_len + 2 + right.cell_len > width:
            left.truncate(max(width - right.cell_len - 2, width // 3), overflow="ellipsis")
            right.truncate(width - left.cell_len - 2, overflow="ellipsis")
        gap = " " * (width - left.cell_len - right.cell_len)
        return Text.assemble(left, gap, right, no_wrap=True)

    def _where(self, history: RunHistory, width: int) -> Text:
        """Progress, speed and score."""
        theme = self.app.current_theme
        line = Text(no_wrap=True)
        progress = history.progress
        if not math.isnan(progress):
            done = round(BAR * progress)
            line.append("━" * done, theme.primary or "")
            line.append("━" * (BAR - done), "dim")
            line.append(f" {progress:4.0%}  ")
        of = f"/{history.total_steps:,}" if history.total_steps else ""
        eta = history.eta_seconds(self._clock())
        rate = history.last("tokens_per_s")
        parts = [
            ("step ", f"{history.step:,}{of}"),
            ("ETA ", "–" if eta is None else duration(eta)),
            ("", f"{rate:,.0f} tokens/s" if math.isfinite(rate) else "– tokens/s"),
        ]
        if math.isfinite(history.best_score):
            best = f"{history.best_score:.3f} at {history.best_step:,}"
            parts.append((f"best {history.score_name} ", best))
        if math.isfinite(history.test_score):
            parts.append(("test ", f"{history.test_score:.3f}"))
        for index, (label, value) in enumerate(parts):
            more = Text.assemble(("  · " if index else "", "dim"), (label, "dim"), value)
            if line.cell_len + more.cell_len > width:
                break
            line.append_text(more)
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
