"""The log of a run in words: what happened and when."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from simsmoe_cli.monitor.state.alerts import Alert

Level = Literal["info", "good", "warning", "alert"]
MAX_LOG = 1000


@dataclass(frozen=True)
class LogLine:
    """Something that happened, in words."""

    step: int
    time: float
    level: Level
    text: str


class Journal:
    """The last things that happened, oldest first.

    Attributes:
        lines: all of them.
        alerts: those that are alerts.
    """

    def __init__(self) -> None:
        self.lines: deque[LogLine] = deque(maxlen=MAX_LOG)
        self.alerts: deque[Alert] = deque(maxlen=MAX_LOG)

    def alert(self, alerts: Iterable[Alert]) -> None:
        """Add alerts and ends of alerts."""
        for alert in alerts:
            self.alerts.append(alert)
            level: Level = "good" if alert.recovered else "alert"
            self.lines.append(LogLine(alert.step, alert.time, level, alert.text))

    def alerts_after(self, before: Alert | None) -> list[Alert]:
        """Alerts newer than this one; all that are kept where it is None or forgotten."""
        recent = list(self.alerts)
        at = [index for index, alert in enumerate(recent) if alert is before]
        return recent[at[0] + 1 :] if at else recent
