"""Writes the events of one training; they are held back until its run folder may be changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Literal

from simsmoe_cli.run.changes import setting_changes
from simsmoe_cli.run.event_log import EventLog
from simsmoe_cli.run.events import (
    ChangedSettings,
    Event,
    RunFinished,
    RunStarted,
    SimilarityFacts,
)
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.similarity.cost import Cost
from simsmoe_cli.train.objectives.base import Objective
from simsmoe_cli.train.probes import Probe


class RunLog:
    """The event log of a training.

    Args:
        subscriber: called with every event that is written.
        writes: whether this process writes; of several ranks only the first does.
    """

    def __init__(
        self,
        subscriber: Callable[[dict[str, Any]], None] | None = None,
        *,
        writes: bool = True,
    ):
        self._subscriber, self._writes = subscriber, writes
        self._log: EventLog | None = None
        self._held: list[Event | tuple[int, Probe]] = []

    @property
    def is_open(self) -> bool:
        """Whether events are written, and no longer held."""
        return self._log is not None

    @property
    def written(self) -> EventLog:
        """The file of events, once it is open."""
        assert self._log is not None
        return self._log

    def position(self) -> int:
        """Bytes in the file of events, which is open; 0 in a process that does not write."""
        return self.written.position() if self._writes else 0

    def sync(self) -> None:
        """Return when what was written is on the disk."""
        self.written.sync()

    def open(self, run: RunDir, keep: int | None) -> bool:
        """Open the file of events and write what was held.

        Args:
            run: whose events they are.
            keep: bytes of the file that stay; None starts a new one.

        Returns:
            Whether the file holds all the bytes that should stay.
        """
        self._run, self._log = run, EventLog(run.events, keep)
        if self._subscriber is not None:
            self._log.subscribe(self._subscriber)
        whole = keep is None or self._log.position() >= keep
        for held in self._held:
            if isinstance(held, tuple):
                self.emit_probe(*held)
            else:
                self._log.emit(held)
        self._held = []
        return whole

    def emit(self, event: Event) -> None:
        """Write an event, or hold it until the file is open."""
        if not self._writes:
            return
        if self._log is None:
            self._held.append(event)
        else:
            self._log.emit(event)

    def emit_probe(self, step: int, found: Probe) -> None:
        """Write the matrices of a probe and its events, or hold them until the file is open."""
        if not self._writes:
            return
        if self._log is None:
            self._held.append((step, found))
        else:
            self._log.emit({"kind": "router", "step": step, "layers": found.router})
            self._log.emit({"kind": "similarity", "step": step, **found.write(self._run, step)})

    def warn(self, step: int, *messages: str) -> None:
        """A warning event for each message."""
        for message in messages:
            self.emit({"kind": "warning", "step": step, "message": message})

    def leave(
        self, step: int, status: Literal["trained", "stopped", "failed"], reason: str
    ) -> None:
        """Write the last event of a run that did not finish, if possible.

        A full disk or a closed output must not hide the reason why the run ended.
        """
        if self._log is not None:
            with contextlib.suppress(OSError):
                self.emit(RunFinished(kind="run_finished", step=step, status=status, reason=reason))

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.close()


def run_started(
    objective: Objective[Any], run: RunDir, step: int, before: dict[str, Any] | None = None
) -> RunStarted:
    """The run_started event.

    Args:
        before: the recipe of a resumed run until now.
    """
    recipe = objective.recipe
    resolved = recipe.model_dump(mode="json")
    return {
        "kind": "run_started",
        "step": step,
        "name": run.name,
        "recipe": resolved,
        "parameters": sum(p.numel() for p in objective.model.parameters()),
        "tokens_per_step": recipe.train.batch * recipe.train.block,
        "total_steps": recipe.train.steps,
        "unit": objective.unit,
        "device": str(objective.device),
        "precision": objective.precision,
        **objective.announcement(),
        **_similarity_facts(objective.similarity_cost),
        **_changed(before, resolved),
    }


def _changed(before: dict[str, Any] | None, now: dict[str, Any]) -> ChangedSettings:
    changes = [] if before is None else setting_changes(before, now)
    return {"changes": changes} if changes else {}


def _similarity_facts(cost: Cost | None) -> SimilarityFacts:
    if cost is None:
        return {}
    return {"compare_every": cost.every, "similarity_flops": round(cost.share, 6)}
