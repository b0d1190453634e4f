"""The loss curve and the probes of a training, read from its events for a report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from simsmoe_cli.collapse.sources.base import Judged
from simsmoe_cli.collapse.subject import History, LossPoint, ProbePoint
from simsmoe_cli.errors import printable
from simsmoe_cli.run.event_log import read_events
from simsmoe_cli.run.events import Eval, Train

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
        step = event["step"]
        if event["kind"] == "run_started":
            if "total_steps" in event:
                facts["total_steps"] = event["total_steps"]
        elif event["kind"] == "train" or event["kind"] == "eval":
            losses.append(_loss(event))
        elif event["kind"] == "similarity":
            means = [layer.get("mean") for layer in event.get("layers", [])]
            probes.setdefault(step, {})["cka_mean"] = means
            if "tokens" in event:
                facts["probe_tokens"] = event["tokens"]
        elif event["kind"] == "router":
            layers = event.get("layers", [])
            now = [[share or 0.0 for share in layer.get("load", [])] for layer in layers]
            probes.setdefault(step, {}).update(
                load_cv=[layer.get("load_cv") for layer in layers],
                dead=[_count(layer.get("dead")) for layer in layers],
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


def judged_dead(path: Path, step: int | None) -> dict[int, Judged]:
    """Which experts were dead at the last judgement on training batches, by layer.

    Args:
        path: of an events.jsonl.
        step: judgements after it are left out; None: all count.

    Returns:
        Nothing where there are no events, or those of earlier versions, which judged few tokens.
    """
    found: dict[int, Judged] = {}
    if not path.is_file():
        return found
    for event in read_events(path):
        if event["kind"] != "router" or (step is not None and event["step"] > step):
            continue
        for layer in event.get("layers", []):
            dead, slots = layer.get("dead"), sum(layer.get("slots", []))
            if dead is not None and slots:
                found[layer["layer"]] = Judged(dead, slots)
    return found


def _count(dead: list[int] | None) -> int | None:
    return None if dead is None else len(dead)


def _loss(event: Train | Eval) -> LossPoint:
    evaluated = event if event["kind"] == "eval" else None
    return LossPoint(
        step=event["step"],
        split="train" if evaluated is None else printable(evaluated.get("split", "")),
        loss_nats=event.get("loss_nats"),
        bpc=event.get("bpc"),
        accuracy=event.get("accuracy"),
        best=evaluated is not None and evaluated.get("best", False),
    )


def _drift(before: list[list[float]], now: list[list[float]]) -> list[float | None]:
    """Half the sum of absolute differences of the loads of each layer."""
    if len(before) != len(now):
        return [None] * len(now)
    return [
        sum(abs(a - b) for a, b in zip(old, new, strict=True)) / 2 if len(old) == len(new) else None
        for old, new in zip(before, now, strict=True)
    ]
