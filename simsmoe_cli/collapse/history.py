"""What a run's events say of its training: the loss curve and the probes, for a report.

Events of unknown kinds, and fields that are missing or no numbers, are passed over.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from simsmoe_cli.collapse.findings import History, LossPoint, ProbePoint
from simsmoe_cli.rundir import Event, read_events

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
        kind, step = event["kind"], event.get("step")
        if not isinstance(step, int):
            continue
        if kind == "run_started" and isinstance(event.get("total_steps"), int):
            facts["total_steps"] = event["total_steps"]
        elif kind in ("train", "eval"):
            losses.append(_loss(event, step))
        elif kind == "similarity":
            layers = event.get("layers") or []
            probes.setdefault(step, {})["cka_mean"] = [_number(layer, "mean") for layer in layers]
            if isinstance(event.get("tokens"), int):
                facts["probe_tokens"] = event["tokens"]
        elif kind == "router":
            layers = event.get("layers") or []
            now = [layer.get("load") or [] for layer in layers]
            probes.setdefault(step, {}).update(
                load_cv=[_number(layer, "load_cv") for layer in layers],
                dead=[len(layer.get("dead") or []) for layer in layers],
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
        split=str(event.get("split", "train")),
        loss_nats=_number(event, "loss_nats"),
        bpc=_number(event, "bpc"),
        accuracy=_number(event, "accuracy"),
        best=event.get("best") is True,
    )


def _number(fields: dict[str, Any], name: str) -> float | None:
    value = fields.get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _drift(before: list[list[float]], now: list[list[float]]) -> list[float | None]:
    """Half the sum of absolute differences of the loads of each layer."""
    if len(before) != len(now):
        return [None] * len(now)
    return [
        sum(abs(a - b) for a, b in zip(old, new, strict=True)) / 2 if len(old) == len(new) else None
        for old, new in zip(before, now, strict=True)
    ]
