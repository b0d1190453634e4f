"""A run folder made from a formula: the same on every machine, in every year.

Its pattern is "sg", so its layers with experts are called 1, 3, 5 and 7. In the first of them
experts stay alike, in deeper ones they part. In the second the experts 2 and 5 stay copies, in the
third expert 3 dies half way, in the last what expert 6 does is undefined.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from simsmoe_cli.run import probes
from simsmoe_cli.run.event_log import SCHEMA
from simsmoe_cli.run.folder import RunDir

BEGAN = 1_700_000_000.0  # seconds since the epoch
STEP_S = 2.0
LAYERS, EXPERTS = 4, 8
MEASURE, TOKENS = "cka-linear-debiased", 100_000


def write_run(
    folder: Path,
    *,
    until: int = 2000,
    total: int = 2000,
    finished: bool = True,
    separate: float = 1.0,
    similarity: str = "calibrated",
) -> Path:
    """Write a run folder of `until` steps; gives its path.

    Args:
        folder: the run folder, made here.
        until: last step written.
        total: steps the recipe asks for.
        finished: whether it says that it has ended.
        separate: how fast experts part.
        similarity: preset in the recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = list(events(folder.name, until, total, finished, separate, similarity))
    for probe in found:
        if probe["kind"] == "similarity":
            write_matrices(RunDir(folder), probe["step"], separate)
    printed = ["--- 2023-11-14 22:13:20 simsmoe pretrain --recipe quickstart"]
    for step in range(50, until + 1, 50):
        printed.append(f"step {step}/{total}  loss {score(step, separate):.3f}")
    (folder / "log.txt").write_text("".join(f"{line}\n" for line in printed))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in found))
    return folder


def events(
    name: str, until: int, total: int, finished: bool, separate: float, similarity: str
) -> Iterator[dict[str, Any]]:
    """The events of the run, in order."""
    yield event(
        "run_started",
        0,
        name=name,
        recipe={
            "name": "quickstart",
            "model": {"pattern": "sg", "repeats": LAYERS},
            "moe": {"router": "smoe", "experts": EXPERTS},
            "similarity": {"preset": similarity},
        },
        parameters=3_210_000,
        tokens_per_step=2048,
        total_steps=total,
        unit="byte",
        device="cpu",
        precision="fp32",
    )
    for step in range(0, until + 1, 50):
        if step:
            yield train_event(step, separate)
        if step % 250 == 0:
            if step:
                loss = score(step, separate) * math.log(2) + 0.04
                yield event(
                    "eval",
                    step,
                    split="valid",
                    loss_nats=round(loss, 5),
                    bpc=round(loss / math.log(2), 5),
                    perplexity=round(math.exp(loss), 4),
                    tokens=40960,
                    tokens_per_s=18000.0,
                    best=True,
                )
            yield router_event(step)
            yield similarity_event(step, separate)
        if step and step % 1000 == 0:
            yield event("checkpoint", step, path=f"checkpoints/step-{step:07d}")
    if finished:
        test = round(score(until, separate) + 0.1, 5)
        yield event("eval", until, split="test", loss_nats=1.0, bpc=test, tokens=40960, best=False)
        yield event(
            "run_finished",
            until,
            status="finished",
            reason="all steps done",
            test_bpc=test,
            test_loss_nats=1.0,
            best_step=until,
        )


def event(kind: str, step: int, **fields: Any) -> dict[str, Any]:
    return {"schema": SCHEMA, "kind": kind, "step": step, "time": BEGAN + STEP_S * step} | fields


def score(step: int, separate: float) -> float:
    return 2.2 - 0.02 * separate + 4.5 * math.exp(-step / 220) + 0.05 * math.sin(step / 37)


def train_event(step: int, separate: float) -> dict[str, Any]:
    bpc = score(step, separate)
    return event(
        "train",
        step,
        loss_nats=round(bpc * math.log(2), 5),
        bpc=round(bpc, 5),
        losses={"balance": round(1.2 + math.exp(-step / 300), 5), "z": round(0.1 + step / 1e5, 5)},
        grad_norm=round(0.6 + 2 * math.exp(-step / 90) + 0.1 * math.cos(step), 5),
        tokens_per_s=round(9000 + 300 * math.sin(step / 90), 1),
        step_ms=round(220 + 6 * math.cos(step / 70), 2),
        lr=round(1.2e-3 * min(1, step / 200) * (0.55 + 0.45 * math.cos(step / 640)), 8),
        tokens=2048 * step,
        machine={"cpu_percent": 198, "ram_mb": 812 + step // 100},
        similarity={"pairs_due": 4.0, "mean": round(0.7 * math.exp(-separate * step / 900), 5)},
    )


def router_event(step: int) -> dict[str, Any]:
    layers = []
    for layer in range(LAYERS):
        raw = [1 + 0.6 * math.sin(1.7 * expert + layer) for expert in range(EXPERTS)]
        dead = [3] if layer == 2 and step >= 1000 else []
        for expert in dead:
            raw[expert] = 0.0
        load = [round(value / sum(raw), 6) for value in raw]
        mean = sum(load) / EXPERTS
        spread = math.sqrt(sum((value - mean) ** 2 for value in load) / EXPERTS)
        layers.append(
            {
                "layer": layer,
                "load": load,
                "load_cv": round(spread / mean, 6),
                "dead": dead,
                "entropy_nats": 1.9,
                "entropy_of_mean_nats": 2.0,
            }
        )
    return event("router", step, layers=layers)


def similarity_event(step: int, separate: float) -> dict[str, Any]:
    layers = []
    for layer in range(LAYERS):
        cka = [
            [cka_of(layer, i, j, step, separate) for j in range(EXPERTS)] for i in range(EXPERTS)
        ]
        pairs = {
            (i, j): value
            for i in range(EXPERTS)
            for j in range(i + 1, EXPERTS)
            if (value := cka[i][j]) is not None
        }
        pair = max(pairs, key=pairs.__getitem__)
        layers.append(
            {
                "layer": layer,
                "mean": round(sum(pairs.values()) / len(pairs), 6),
                "highest": pairs[pair],
                "pair": list(pair),
            }
        )
    return event(
        "similarity",
        step,
        measure=MEASURE,
        tokens=TOKENS,
        layers=layers,
        matrices=f"probes/step-{step:07d}.npz",
    )


def write_matrices(run: RunDir, step: int, separate: float) -> None:
    """The file that the similarity event of a step names."""
    cka = [
        [[cka_of(layer, i, j, step, separate) for j in range(EXPERTS)] for i in range(EXPERTS)]
        for layer in range(LAYERS)
    ]
    shared = [
        [
            [
                0 if i == j else round(TOKENS * (0.1 + 0.09 * math.cos(i + j + layer)))
                for j in range(EXPERTS)
            ]
            for i in range(EXPERTS)
        ]
        for layer in range(LAYERS)
    ]
    probes.write(
        run,
        step,
        measure=MEASURE,
        tokens=TOKENS,
        cka_LNN=np.array(cka, dtype=np.float32),
        shared_LNN=np.array(shared, dtype=np.int32),
    )


def cka_of(layer: int, i: int, j: int, step: int, separate: float) -> float | None:
    """Similarity of two experts; null where it is undefined."""
    if layer == 3 and 6 in (i, j):
        return None
    if i == j:
        return 1.0
    if layer == 1 and {i, j} == {2, 5}:
        return 0.991
    parted = math.exp(-separate * layer * step / 1500)
    low, high = sorted((i, j))
    return round((0.82 - 0.05 * (high - low)) * parted + 0.03 * math.sin(3 * low + high), 5)
