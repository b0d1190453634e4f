"""The history of one run, built up from its events.

A `RunHistory` takes batches of a `Tail` (or single events) and holds the data of the panels, in
bounded memory. Only one thread may use it at a time: a reader in another thread must not read while
a batch is taken. Unknown kinds and fields are skipped, and so are invalid values, so that no event
can stop a monitor.

Series by name:

    train, valid, best       score, as `RunHistory.scoring` reads it
    loss.NAME                auxiliary losses, nats
    lr, grad_norm, tokens_per_s, step_ms
    pairs.due, pairs.mean    similarity learning in training: pairs measured a step, their mean
    metric.NAME              what routers report
    machine.NAME             what the training process takes of its machine
    cka, cka.L               mean pairwise similarity at probes: over layers, of layer L
    cka_shared               the same on tokens that both of a pair were given, over layers
    load_cv, load_cv.L       coefficient of variation of the load: mean over layers, of layer L

L is a layer's index among the layers with experts, as in the events. People are shown
`RunHistory.label` of it, the number that the model gives the layer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from simsmoe_cli.monitor.draw.sanitize import clean
from simsmoe_cli.monitor.read.tail import Batch
from simsmoe_cli.monitor.state.alerts import Alert, Thresholds, Watch
from simsmoe_cli.monitor.state.facts import RunFacts
from simsmoe_cli.monitor.state.journal import Journal, Level, LogLine
from simsmoe_cli.monitor.state.pace import Pace
from simsmoe_cli.monitor.state.probes import (
    Frames,
    ProbeFiles,
    RouterFrame,
    RouterLayer,
    SimilarityFrame,
    defined,
    mean_of,
)
from simsmoe_cli.monitor.state.series import Series
from simsmoe_cli.monitor.state.train_series import Gathered
from simsmoe_cli.run.events import Eval, Event, Router, RunFinished, RunStarted, Similarity, Train
from simsmoe_cli.run.score import Scoring

Status = Literal["waiting", "training", "finished", "trained", "stopped", "failed", "stale"]

# Splits that are scored once, at the end; a task whose test labels are not published has "dev".
REPORTED = ("test", "dev")


class RunHistory(RunFacts):
    """The contents of a run's events; see the module for threads and names of series.

    Args:
        path: the run folder.
        thresholds: when to alert.
        name: to call it; None: that of the folder.

    Attributes:
        path: as given.
        name: as given.
        step: steps done.
        missing: whether there is no file now.
        series: see the module.
        routers: router events, `RouterFrame`, thinned.
        similarities: similarity events, `SimilarityFrame`, thinned.
        log: what happened, in words, oldest first; alerts and warnings too.
        alerts: oldest first.
        best_score, best_step: that of the best validation; nan and None before.
        test_score: of the best weights, of a finished run; nan before.
        reason: why the run ended; "" while it has not.
        printed: the last lines that the training printed, oldest first.
        total_events: events taken.
    """

    def __init__(self, path: Path, thresholds: Thresholds | None = None, name: str | None = None):
        self.path = path
        self.name = clean(path.absolute().name if name is None else name)
        self.thresholds = thresholds or Thresholds()
        self.reset()

    def reset(self) -> None:
        """Forget everything but the path, the name and the thresholds."""
        super().__init__()
        self.step = 0
        self.missing = False
        self._gathered = Gathered()
        self.series: dict[str, Series] = self._gathered.series
        self.routers: Frames[RouterFrame] = Frames()
        self.similarities: Frames[SimilarityFrame] = Frames()
        self._journal = Journal()
        self.log = self._journal.lines
        self.alerts = self._journal.alerts
        self.best_score = self.test_score = math.nan
        self.best_step: int | None = None
        self.reason = ""
        self.printed: tuple[str, ...] = ()
        self.total_events = 0
        self._ended: Status | None = None
        self._saw_bpc = False
        self._pace = Pace()
        self._watch = Watch(self.thresholds, self.label)
        self._files = ProbeFiles(self.path)

    def take(self, batch: Batch, *, live: bool = False, now: float | None = None) -> list[Alert]:
        """Take the result of a poll; returns the alerts that it causes.

        Args:
            batch: of this run's tail.
            live: the events were written while the monitor watched, not before; so their age is
                known however the clocks of two machines differ.
            now: seconds since the epoch; None asks the clock.
        """
        now = time.time() if now is None else now
        before = self.alerts[-1] if self.alerts else None
        if batch.restarted:
            self.reset()
            self._say("warning", "the events file was replaced or cut back; reading it again")
        if batch.missing and not self.missing and self.total_events:
            self._say("warning", "the events file is gone; waiting for it to come back")
        self.missing = batch.missing
        for notice in batch.notices:
            self._say("warning", notice)
        self.apply(batch.events, heard_at=now if live and batch.events else None)
        if not batch.more:
            self.check_silence(now)
        return self._journal.alerts_after(before)

    def apply(self, events: Iterable[Event], heard_at: float | None = None) -> None:
        """Add events, oldest first.

        Args:
            events: as the tail gives them.
            heard_at: when they were seen to arrive, seconds since the epoch; None where they lay
                there before.
        """
        if heard_at is not None:
            self._pace.heard_at = heard_at
        for event in events:
            step, at = event["step"], defined(event.get("time"))
            self.total_events += 1
            self.step = step
            self._pace.event(at)
            if event["kind"] == "train":
                self._train(event, step, at)
            elif event["kind"] == "eval":
                self._eval(event, step, at)
            elif event["kind"] == "router":
                self._router(event, step, at)
            elif event["kind"] == "similarity":
                self._similarity(event, step, at)
            elif event["kind"] == "run_started":
                self._started(event)
            elif event["kind"] == "checkpoint":
                self._say("info", f"saved {clean(event.get('path'))}")
            elif event["kind"] == "warning":
                self._say("warning", clean(event.get("message")))
            elif event["kind"] == "run_finished":
                self._finished(event)
        self._gathered.flush(self.scoring)

    # What panels ask for.

    @property
    def scoring(self) -> Scoring:
        """The kind of score of the run."""
        return Scoring.of_run(self.unit, self._saw_bpc)

    @property
    def last_time(self) -> float:
        """Seconds since the epoch of the newest event; nan before."""
        return self._pace.last_time

    @property
    def status(self) -> Status:
        """The status of the run now, by this machine's clock."""
        return self.status_at(time.time())

    def status_at(self, now: float) -> Status:
        """The status of the run: waiting (no event yet), training, finished, trained (and not
        tested), stopped, failed, or
        stale (no more events, and no event that says why)."""
        if not self.total_events:
            return "waiting"
        if self._ended is not None:
            return self._ended
        return "stale" if self.quiet_s(now) > self.patience_s else "training"

    def quiet_s(self, now: float) -> float:
        """Seconds since the newest event; inf where no event has a time."""
        return self._pace.quiet_s(now)

    @property
    def patience_s(self) -> float:
        """Seconds of silence after which the run counts as stale."""
        return self._pace.patience_s(self.thresholds.silent_after_s)

    @property
    def progress(self) -> float:
        """Fraction of the steps done; nan where the total is unknown."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else math.nan

    def eta_seconds(self, now: float | None = None) -> float | None:
        """Seconds to the last step at the pace of the last events; None unless it trains."""
        now = time.time() if now is None else now
        if self.total_steps is None or self.status_at(now) != "training":
            return None
        return self._pace.left_s(self.total_steps - self.step, now)

    def last(self, name: str) -> float:
        """Newest value of a series; nan where there is none."""
        return self.series[name].last if name in self.series else math.nan

    def named(self, prefix: str) -> dict[str, Series]:
        """Series whose names begin with the prefix, by the rest of their names."""
        return {
            name.removeprefix(prefix): series
            for name, series in self.series.items()
            if name.startswith(prefix)
        }

    @property
    def router_layers(self) -> tuple[RouterLayer, ...]:
        """The layers of the newest router event; empty if there is no such event."""
        return self.routers[-1].layers if len(self.routers) else ()

    @property
    def layers(self) -> list[int]:
        """Indices, among those with experts, of the layers that any probe has seen last."""
        seen = {layer.layer for layer in self.router_layers}
        if len(self.similarities):
            seen |= self.similarities[-1].means.keys()
        return sorted(seen)

    def check_silence(self, now: float) -> list[Alert]:
        """The alert of a live run that fell silent, or is heard again."""
        status = self.status_at(now)
        found = self._watch.silence(self.step, now, self.quiet_s(now), status == "stale")
        self._journal.alert(found)
        return found

    # Events by kind.

    def _started(self, event: RunStarted) -> None:
        self._gathered.flush(self.scoring)
        self.started(event)
        self._watch.armed_from = self.warm_up
        self._ended, self.reason = None, ""
        of = f" of {self.total_steps:,}" if self.total_steps else ""
        if self.step:
            with_what = self.changed or "other settings"
            self._say("info", f"training continues at step {self.step:,} with {with_what}")
        else:
            self._say("info", f"training begins{of and f', {self.total_steps:,} steps in all'}")

    def _train(self, event: Train, step: int, at: float) -> None:
        self._ended, self.reason = None, ""
        self._pace.trained(step, at)
        self._saw_bpc = self._saw_bpc or event.get("bpc") is not None
        self._gathered.train(event, step, at)
        self.trained(event)
        self._check_loss(event, step, at)

    def _eval(self, event: Eval, step: int, at: float) -> None:
        self._saw_bpc = self._saw_bpc or event.get("bpc") is not None
        scoring = self.scoring
        score = scoring.of(event)
        split = clean(event.get("split"))
        self._check_loss(event, step, at)
        if split == "valid":
            self._gathered.add("valid", step, at, score)
            if scoring.better(score, self.best_score):
                self.best_score, self.best_step = score, step
            self._gathered.add("best", step, at, self.best_score)
        elif split in REPORTED:
            self.test_score = score
        best = ", best so far" if split == "valid" and self.best_step == step else ""
        self._say("info", f"{split} {scoring.text(score)}{best}")

    def _router(self, event: Router, step: int, at: float) -> None:
        before = self.routers[-1] if len(self.routers) else None
        frame = RouterFrame.of(event, before)
        self.routers.append(frame)
        for layer in frame.layers:
            self._gathered.add(f"load_cv.{layer.layer}", step, at, layer.load_cv)
        self._gathered.add("load_cv", step, at, frame.load_cv)
        self._journal.alert(self._watch.router(frame))

    def _similarity(self, event: Similarity, step: int, at: float) -> None:
        frame = SimilarityFrame.of(event, self._files)
        self.similarities.append(frame)
        for layer, mean in frame.means.items():
            self._gathered.add(f"cka.{layer}", step, at, mean)
        self._gathered.add("cka", step, at, frame.mean)
        if frame.shared_means:
            shared = mean_of(list(frame.shared_means.values()))
            self._gathered.add("cka_shared", step, at, shared)
        self._journal.alert(self._watch.similarity(frame))

    def _finished(self, event: RunFinished) -> None:
        self._ended = event.get("status", "finished")
        self.reason = clean(event.get("reason"))
        why = f": {self.reason}" if self.reason else ""
        level: Level = "good" if self._ended == "finished" else "warning"
        self._say(level, f"{self._ended}{why}")

    # How they are kept.

    def _check_loss(self, event: Train | Eval, step: int, at: float) -> None:
        if "loss_nats" in event:
            finite = event["loss_nats"] is not None
            if found := self._watch.loss(step, at, finite):
                self._journal.alert(found)

    def _say(self, level: Level, text: str) -> None:
        self.log.append(LogLine(self.step, self.last_time, level, text))
