"""The state of runs as JSON, for other programs. One object:

schema        1; grows when a field changes its meaning, not when one is added
time          seconds since the epoch when it was made
runs          in the order asked for; null stands for what is unknown or undefined
  name, path, status (waiting | training | trained | finished | stopped | failed | stale), reason
  step, total_steps, eta_s, last_event_time
  recipe, router, similarity (preset), parameters, tokens_per_step, unit, device, precision
  score_name, score_unit: of train, valid, best, test
  train, valid, best, best_step, test
  lr, grad_norm, tokens_per_s, step_ms, losses {name: nats}, metrics {name: value}
  machine       {cpu_percent, ram_mb, gpu_mb, gpu_total_mb, gpu_percent} of the training process, as
                far as known
  load          newest router event: step, layers [{layer, label, load_cv, load [N], dead [ids]
                (null: not judged yet), slots (by which they were judged), judged (in this event),
                entropy_nats, entropy_of_mean_nats}]; null before the first
  cka           newest similarity event: step, measure, mean, layers [{layer, label, mean,
                highest, pair [i, j]}]; null before the first
  alerts        [{kind, step, time, layer, label, experts [ids], recovered, text}], oldest
                first
  events        [{step, time, level (info | good | warning | alert), text}], oldest first
  skipped       lines of events.jsonl that could not be used, by why

A layer's `layer` is its index among the layers with experts, from 0; its `label` is what the model
calls it, its index among all sub-layers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simsmoe_cli.monitor.read.printed import PrintedTail
from simsmoe_cli.monitor.read.tail import Tail
from simsmoe_cli.monitor.state.alerts import Thresholds
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.run.event_log import finite
from simsmoe_cli.run.folder import RunDir

SNAPSHOT_SCHEMA = 1


@dataclass(frozen=True)
class Seen:
    """A run, read to its end.

    Attributes:
        history: its history.
        skipped: lines of its events that could not be used, by why.
    """

    history: RunHistory
    skipped: dict[str, int]


def read(
    path: Path,
    thresholds: Thresholds | None = None,
    now: float | None = None,
    name: str | None = None,
) -> Seen:
    """Read a run folder to the end of its events.

    Args:
        path: the run folder.
        thresholds: when to alert.
        now: seconds since the epoch; None asks the clock.
        name: to call it; None: that of the folder.
    """
    history, tail = RunHistory(path, thresholds, name), Tail(RunDir(path).events)
    more = True
    while more:
        batch = tail.poll()
        history.take(batch, now=now)
        more = batch.more
    printed = PrintedTail(RunDir(path).printed)
    printed.poll()
    history.printed = printed.lines
    return Seen(history, dict(tail.skipped))


def snapshot(runs: Iterable[Seen], now: float | None = None) -> dict[str, Any]:
    """The JSON of the runs; see the module."""
    now = time.time() if now is None else now
    found: dict[str, Any] = finite(
        {"schema": SNAPSHOT_SCHEMA, "time": now, "runs": [_facts(run, now) for run in runs]}
    )
    return found


def _facts(run: Seen, now: float) -> dict[str, Any]:
    history = run.history
    return {
        "name": history.name,
        "path": str(history.path),
        "status": history.status_at(now),
        "reason": history.reason or None,
        "step": history.step,
        "total_steps": history.total_steps,
        "eta_s": history.eta_seconds(now),
        "last_event_time": history.last_time,
        "recipe": history.recipe_name or None,
        "router": history.router or None,
        "similarity": history.similarity or None,
        "parameters": history.parameters,
        "tokens_per_step": history.tokens_per_step,
        "unit": history.unit or None,
        "device": history.device or None,
        "precision": history.precision or None,
        "score_name": history.scoring.name,
        "score_unit": history.scoring.in_words,
        "train": history.last("train"),
        "valid": history.last("valid"),
        "best": history.best_score,
        "best_step": history.best_step,
        "test": history.test_score,
        **{name: history.last(name) for name in ("lr", "grad_norm", "tokens_per_s", "step_ms")},
        "losses": {name: series.last for name, series in history.named("loss.").items()},
        "metrics": {name: series.last for name, series in history.named("metric.").items()},
        "machine": dict(history.machine),
        "load": _load_facts(history),
        "cka": _cka_facts(history),
        "alerts": [asdict(alert) for alert in history.alerts],
        "events": [asdict(line) for line in history.log],
        "skipped": run.skipped,
    }


def _load_facts(history: RunHistory) -> dict[str, Any] | None:
    if not len(history.routers):
        return None
    frame = history.routers[-1]
    layers = [
        {**vars(layer), "label": history.label(layer.layer), "load": layer.load.tolist()}
        for layer in frame.layers
    ]
    return {"step": frame.step, "layers": layers}


def _cka_facts(history: RunHistory) -> dict[str, Any] | None:
    if not len(history.similarities):
        return None
    frame = history.similarities[-1]
    layers = []
    for number, mean in frame.means.items():
        *pair, highest = frame.highest.get(number, (None,))
        layers.append(
            {
                "layer": number,
                "label": history.label(number),
                "mean": mean,
                "highest": highest,
                "pair": pair or None,
            }
        )
    return {"step": frame.step, "measure": frame.measure, "mean": frame.mean, "layers": layers}
