"""What a run's events say of its training: the loss curve and the probes, for a report.

Events of unknown kinds, and fields that are missing or no numbers, are passed over.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from simsmoe_cli.collapse.findings import History, LossPoint, ProbePoint
from simsmoe_cli.errors import printable
from simsmoe_cli.run.folder import Event, number, read_events, whole

LOSSES_KEPT = 2000  # points of the loss curve; more cannot be told apart in a figure


def read_history(path: Path) -> History:
    """Losses and probes of an events.jsonl; empty where there is none."""
    if not path.is_file():
        return History()
    losses: list[LossPoint] = []
    probes: dict[int, dict[str, Any]] = {}
    facts: dict[str, int] = {}
    loads: list[list[float]] = []
    for event in read_events(path):
        kind, step = event["kind"], event["step"]
        if kind == "run_started" and (total := whole(event.get("total_steps"))) is not None:
            facts["total_steps"] = total
        elif kind in ("train", "eval"):
            losses.append(_loss(event, step))
        elif kind == "similarity":
            means = [number(layer.get("mean")) for layer in _layers(event)]
            probes.setdefault(step, {})["cka_mean"] = means
            if (tokens := whole(event.get("tokens"))) is not None:
                facts["probe_tokens"] = tokens
        elif kind == "router":
            layers = _layers(event)
            now = [[number(share) or 0.0 for share in _list(layer, "load")] for layer in layers]
            probes.setdefault(step, {}).update(
                load_cv=[number(layer.get("load_cv")) for layer in layers],
                dead=[len(_list(layer, "dead")) for layer in layers],
                drift=_drift(loads, now),
            )
            loads = now
    trained = [point for point in losses if point.split == "train"]
    every = max(1, math.ceil(len(trained) / LOSSES_KEPT))
    kept = {id(point) for point in [*trained[::every], *trained[-1:]]}
    return History(
        losses=[point for point in losses if point.split != "train" or id(point) in kept],
        probes=[ProbePoint(step=step, **probes[step]) for step in sorted(probes)],
        **facts,
    )


def _loss(event: Event, step: int) -> LossPoint:
    return LossPoint(
        step=step,
        split=printable(event.get("split", "train")),
        loss_nats=number(event.get("loss_nats")),
        bpc=number(event.get("bpc")),
        accuracy=number(event.get("accuracy")),
        best=event.get("best") is True,
    )


def _layers(event: Event) -> list[dict[str, Any]]:
    return [layer for layer in _list(event, "layers") if isinstance(layer, dict)]


def _list(fields: dict[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    return value if isinstance(value, list) else []


def _drift(before: list[list[float]], now: list[list[float]]) -> list[float | None]:
    """Half the sum of absolute differences of the loads of each layer."""
    if len(before) != len(now):
        return [None] * len(now)
    return [
        sum(abs(a - b) for a, b in zip(old, new, strict=True)) / 2 if len(old) == len(new) else None
        for old, new in zip(before, now, strict=True)
    ]
