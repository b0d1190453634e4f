"""How long the monitor takes to open a long run, what following it costs, and its memory.

    python benchmarks/monitor.py [--steps 100000] [--layers 30] [--experts 64] [--probe-every 1000]
                                 [--log-every 10]

Writes a run folder of that many steps, with probes and validations, into a temporary folder
(or --folder, which is kept), then opens the dashboard on 200 x 60 cells without a terminal:

    machine   milliseconds of the processor for a million additions in Python: about 40 on a core
              of one's own, more where neighbours take their part of it
    seen      seconds until there is a picture of its head and tail, and of these the processor's
    open      seconds until every event has been read and drawn
    follow    share of a core while another process appends one event every 100 ms and the run is
              looked at every --interval seconds; a probe among them
    memory    peak resident memory of the process, MiB

and of what lies under it:

    history   seconds to read every event, and of these the processor's
    frames    milliseconds of the processor to read one layer of a probe for the first time
    curves    milliseconds of the processor to draw the score at 200 x 40 cells
    runs      milliseconds of the processor to list a folder of 300 runs for the first time
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import resource
import shutil
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np

from simsmoe_cli.monitor.app import Monitor
from simsmoe_cli.monitor.draw.canvas import Curve, line_plot
from simsmoe_cli.monitor.read.tail import Tail
from simsmoe_cli.monitor.screens.dashboard import Dashboard
from simsmoe_cli.monitor.state.run import RunHistory
from simsmoe_cli.monitor.state.runs import find_runs
from simsmoe_cli.run import probes
from simsmoe_cli.run.event_log import FREQUENT, SCHEMA, EventLog, finite
from simsmoe_cli.run.folder import RunDir

START = 1.7e9
STEP_S = 0.25


def run_started(name: str, steps: int) -> dict[str, Any]:
    """Fields of the first event."""
    return {
        "name": name,
        "recipe": {
            "name": "made-up",
            "moe": {"router": "smoe"},
            "similarity": {"preset": "calibrated"},
        },
        "parameters": 134_400_000,
        "tokens_per_step": 8192,
        "total_steps": steps,
        "unit": "byte",
        "device": "cuda",
        "precision": "bf16",
    }


def train_fields(step: int, steps: int, noise: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Fields of a train event; `noise` holds six numbers."""
    loss = 0.8 + 4 * math.exp(-8 * step / steps) + 0.05 * noise[0]
    return {
        "loss_nats": loss,
        "bpc": loss / math.log(2),
        "losses": {"balance": 4 + 0.1 * noise[1], "similarity": 1 + 0.2 * noise[2]},
        "grad_norm": 0.5 + 0.1 * noise[3],
        "tokens_per_s": 32000 + 500 * noise[4],
        "step_ms": 250 + 4 * noise[5],
        "similarity": {"pairs_due": 15.85, "mean": 0.3 + 0.05 * noise[2], "weight": 0.02},
        "lr": 1e-3 * (1 - step / steps),
        "tokens": step * 8192,
    }


def router_fields(layers: int, experts: int, rng: np.random.Generator) -> dict[str, Any]:
    """Fields of a router event."""
    found = []
    for layer in range(layers):
        load = rng.dirichlet(np.full(experts, 8.0))
        dead = np.flatnonzero(load < 0.01 / experts)
        found.append(
            {
                "layer": layer,
                "load": load.tolist(),
                "load_cv": float(load.std() / load.mean()),
                "dead": dead.tolist(),
                "entropy_nats": 1.97,
                "entropy_of_mean_nats": 2.03,
            }
        )
    return {"layers": found}


def similarity_fields(
    run: RunDir, step: int, layers: int, experts: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Fields of a similarity event, whose matrices are written."""
    cka = rng.random((layers, experts, experts)).astype(np.float32)
    cka = (cka + cka.transpose(0, 2, 1)) / 2
    shared = rng.integers(0, 200, cka.shape).astype(np.int32)
    found = []
    for layer in range(layers):
        ((low, high, value),) = probes.most_similar_pairs(cka[layer], 1)
        mean = float(cka[layer].mean())
        found.append({"layer": layer, "mean": mean, "highest": value, "pair": [low, high]})
    about: dict[str, Any] = {"measure": "cka-linear-debiased", "tokens": 4096}
    name = probes.write(run, step, **about, cka_LNN=cka, shared_LNN=shared)
    return {**about, "layers": found, "matrices": name}


def write_run(
    folder: Path, steps: int, layers: int, experts: int, probe_every: int, log_every: int = 1
) -> int:
    """A run folder of so many steps; gives the size of its events in bytes."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(steps + 1, 6))
    run = RunDir(folder)
    events = run.events
    events.parent.mkdir(parents=True, exist_ok=True)
    with open(events, "w") as file:

        def emit(kind: str, step: int, fields: dict[str, Any]) -> None:
            time_s = START + step * STEP_S
            written = finite(fields, fp32=kind in FREQUENT)
            text = json.dumps(written, separators=(",", ":"))[1:]
            file.write(
                f'{{"schema":{SCHEMA},"kind":"{kind}","step":{step},"time":{time_s!r},{text}\n'
            )

        emit("run_started", 0, run_started(folder.name, steps))
        for step in range(1, steps + 1):
            fields = train_fields(step, steps, noise[step])
            if step % log_every == 0:
                emit("train", step, fields)
            if step % 1000 == 0:
                score = {"split": "valid", "loss_nats": fields["loss_nats"], "bpc": fields["bpc"]}
                emit("eval", step, score | {"best": True})
            if step % probe_every == 0:
                emit("router", step, router_fields(layers, experts, rng))
                emit("similarity", step, similarity_fields(run, step, layers, experts, rng))
    return events.stat().st_size


def append_events(
    folder: Path, first: int, seconds: float, layers: int, experts: int, every_s: float = 0.1
) -> None:
    """Append a train event every `every_s` seconds, and one probe half way."""
    rng = np.random.default_rng(1)
    run = RunDir(folder)
    log = EventLog(run.events, keep_bytes=run.events.stat().st_size)
    count = int(seconds / every_s)
    for step in range(first, first + count):
        log.emit(
            {"kind": "train", "step": step, **train_fields(step, first + count, rng.normal(size=6))}
        )
        if step == first + count // 2:
            log.emit({"kind": "router", "step": step, **router_fields(layers, experts, rng)})
            log.emit(
                {
                    "kind": "similarity",
                    "step": step,
                    **similarity_fields(run, step, layers, experts, rng),
                }
            )
        time.sleep(every_s)
    log.close()


def opened(folder: Path) -> tuple[RunHistory, Tail, float, float]:
    """The history of a run, and the seconds and processor seconds it took."""
    start, cpu = time.perf_counter(), time.process_time()
    history, tail = RunHistory(folder), Tail(RunDir(folder).events)
    more = True
    while more:
        batch = tail.poll()
        history.take(batch)
        more = batch.more
    return history, tail, time.perf_counter() - start, time.process_time() - cpu


class Watch:
    """Seconds and processor seconds since it was made."""

    def __init__(self) -> None:
        self.began, self.began_cpu = time.perf_counter(), time.process_time()

    @property
    def share(self) -> float:
        """Of a core."""
        return (time.process_time() - self.began_cpu) / (time.perf_counter() - self.began)

    def __str__(self) -> str:
        wall, cpu = time.perf_counter() - self.began, time.process_time() - self.began_cpu
        return f"{wall:8.2f} s, of these {cpu:.2f} s of the processor"


def _append_after(opened: Event, *arguments: Any) -> None:
    opened.wait()
    append_events(*arguments)


async def watch_dashboard(folder: Path, options: argparse.Namespace) -> None:
    """Open the dashboard, then follow a writer."""
    arguments = (folder, options.steps + 1, options.follow_s, options.layers, options.experts)
    opened = multiprocessing.Event()
    writer = multiprocessing.Process(target=_append_after, args=(opened, *arguments))
    writer.start()  # before there are threads
    watch = Watch()
    app = Monitor([folder], folder.parent, interval=options.interval)
    async with app.run_test(size=(200, 60)):
        screen = app.screen
        assert isinstance(screen, Dashboard)
        run = screen.followers[0]
        while not run.history.total_events:
            await asyncio.sleep(0.01)
        print(f"seen          {watch}")
        while not (run.caught_up and screen.drawn):
            await asyncio.sleep(0.01)
        print(f"open          {watch}")
        assert run.history.step == options.steps, run.history.step
        opened.set()
        watch = Watch()
        while writer.is_alive():
            await asyncio.sleep(options.interval)
        print(f"follow        {watch.share:8.2%} of a core")
        print(f"memory        {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:8.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--probe-every", type=int, default=1000)
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--follow-s", type=float, default=20.0)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, help="where to write the run, which is then kept")
    options = parser.parse_args()
    base = options.folder or Path(tempfile.mkdtemp())
    try:
        _measure(base / "long", options)
    finally:
        if options.folder is None:
            shutil.rmtree(base)


def _measure(folder: Path, options: argparse.Namespace) -> None:
    size = (options.steps, options.layers, options.experts)
    every = (options.probe_every, options.log_every)
    writer = multiprocessing.Process(target=write_run, args=(folder, *size, *every))
    writer.start()
    writer.join()
    print(f"events.jsonl  {RunDir(folder).events.stat().st_size / 2**20:8.0f} MiB")
    start, total = time.process_time(), 0
    for number in range(1_000_000):
        total += number
    print(f"machine       {1000 * (time.process_time() - start):8.0f} ms")
    asyncio.run(watch_dashboard(folder, options))
    history, _, wall, cpu = opened(folder)
    print(f"history       {wall:8.2f} s, of these {cpu:.2f} s of the processor")
    start = time.process_time()
    layer = history.similarities[len(history.similarities) // 2].layer(0)
    assert layer is not None
    print(f"frames        {1000 * (time.process_time() - start):8.1f} ms")
    start = time.process_time()
    points = history.series["train"].points()
    line_plot([Curve("train", points.step, points.mean, points.low, points.high)], 200, 40)
    print(f"curves        {1000 * (time.process_time() - start):8.1f} ms, {len(points)} buckets")
    for number in range(300):
        write_run(folder.parent / "many" / f"run-{number}", 200, 4, 8, 100)
    start = time.process_time()
    found = find_runs(folder.parent / "many")
    print(f"runs          {1000 * (time.process_time() - start):8.0f} ms for {len(found)}")


if __name__ == "__main__":
    main()
