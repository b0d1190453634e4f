"""The pace of a run, from the times of its last events: when it is silent, and the remaining
time."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise

from simsmoe_cli.monitor.state.alerts import patience_s

RECENT = 64  # events by which the pace is judged


class Pace:
    """The last events of a run.

    Attributes:
        last_time: seconds since the epoch of the newest event; nan before.
        heard_at: when an event was last seen to arrive, by this machine's clock; nan before.
    """

    def __init__(self) -> None:
        self.last_time = math.nan
        self.heard_at = math.nan
        self._times: deque[float] = deque(maxlen=RECENT)
        self._steps: deque[tuple[float, float]] = deque(maxlen=RECENT)

    def event(self, at: float) -> None:
        """An event was written, at this time."""
        self.last_time = at
        self._times.append(at)

    def trained(self, step: int, at: float) -> None:
        """A step was done."""
        self._steps.append((at, step))

    def quiet_s(self, now: float) -> float:
        """Seconds since the newest event; inf where no event has a time."""
        known = [at for at in (self.last_time, self.heard_at) if math.isfinite(at)]
        return max(0.0, now - max(known)) if known else math.inf

    def patience_s(self, silent_after_s: float | None) -> float:
        """Seconds of silence after which a run counts as stale.

        Args:
            silent_after_s: the user's setting; None: computed from the gaps between events.
        """
        gaps = [after - before for before, after in pairwise(self._times)]
        return patience_s(gaps, silent_after_s)

    def left_s(self, steps: int, now: float) -> float | None:
        """Seconds that the given number of steps will take; None if the pace is not known."""
        paces = sorted(
            (after[0] - before[0]) / (after[1] - before[1])
            for before, after in pairwise(self._steps)
            if after[1] > before[1] and after[0] >= before[0]
        )
        if not paces:
            return None
        left = paces[len(paces) // 2] * max(0, steps)
        return max(0.0, left - min(left, self.quiet_s(now)))
