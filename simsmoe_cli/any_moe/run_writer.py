"""The run folder of an attached training, which `simsmoe monitor` and `compare` open while it runs.

Its events hold the load of every layer, the similarity of its experts, the numbers of similarity
learning, and the loss if the loop passes it.

Shapes: L layers, N experts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simsmoe_cli.any_moe.hooks import Probe
from simsmoe_cli.any_moe.numbers import LayerNumbers
from simsmoe_cli.errors import UserError, printable
from simsmoe_cli.parallel.world import ranks
from simsmoe_cli.run import probes
from simsmoe_cli.run.event_log import EventLog, NotAnEvent, parse_event
from simsmoe_cli.run.events import RunStarted, SimilarityLayer, Train
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.machine import MachineMeter
from simsmoe_cli.run.printed_log import PrintedLog
from simsmoe_cli.similarity.shared import FEWEST_SHARED

MEASURE = "cka-linear-debiased"


class RunWriter:
    """Writes one run folder, and holds its lock until it is closed."""

    def __init__(self, path: Path, *, resume: bool):
        """Args:
            path: of the run folder.
            resume: whether to continue a run that is in it.

        Raises:
            UserError: another process writes there, a run is there and `resume` is False, or the
                folder cannot be made.
        """
        if path == Path():
            raise UserError("the run needs a folder of its own", where="run")
        self._run = RunDir(path)
        if not resume and self._run.events.exists():
            raise UserError(
                "this folder holds a run already",
                where=str(path),
                hint="Choose another one or delete it. To continue that run, resume from a "
                "checkpoint (without a Trainer: attach(..., resume=True)).",
            )
        self._open = contextlib.ExitStack()
        try:
            self._open.enter_context(self._run.locked())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot make this folder: {reason}", where=printable(path)) from None
        self._log: EventLog | None = None
        self._machine: MachineMeter | None = None
        self._printed = PrintedLog(self._run.printed)
        self._clock, self._step = time.perf_counter(), 0

    @property
    def started(self) -> bool:
        """Whether the first event is written."""
        return self._log is not None

    def start(self, started: RunStarted) -> None:
        """Begin the run, or continue it from a step after 0.

        Args:
            started: the first event; a continued run has it already, unless something changed.
                Events of later steps are cut off the file.
        """
        step = started["step"]
        said: RunStarted = {**started, "name": self._run.name}
        keep, before = _kept_until(self._run.events, step) if step else (None, None)
        probes.discard_after(self._run, step if step else -1)
        self._log = EventLog(self._run.events, keep)
        self._open.callback(self._log.close)
        if before is None or any(before.get(k) != v for k, v in said.items() if k != "step"):
            self._log.emit(said)
        self._machine = MachineMeter(torch.device(started["device"]))
        self._printed.start(f"simsmoe.attach, {f'from step {step:,}' if step else 'a new run'}")
        self._open.callback(self._printed.close)
        self._clock, self._step = time.perf_counter(), step

    def train(self, step: int, layers: Sequence[LayerNumbers], known: dict[str, Any]) -> None:
        """Write what happened since the last call.

        Args:
            step: optimizer steps done.
            layers: the numbers of each layer.
            known: further fields of the train event.
        """
        assert self._log is not None
        assert self._machine is not None
        now = time.perf_counter()
        seconds = now - self._clock
        event: Train = {
            "kind": "train",
            "step": step,
            "step_ms": 1000 * seconds / max(1, step - self._step),
            "tokens_per_s": layers[0].tokens * ranks() / seconds,
            "machine": self._machine.report(),
            **known,  # type: ignore[typeddict-item]
        }
        self._clock, self._step = now, step
        self._log.emit(event)
        self._log.emit({"kind": "router", "step": step, "layers": [n.event() for n in layers]})

    def probe(self, step: int, found: Sequence[Probe]) -> None:
        """Write the matrices of a probe, of all layers, and the event that names their file."""
        assert self._log is not None
        most = max(len(probe.cka_NN) for probe in found)
        cka_LNN = np.full((len(found), most, most), np.nan, np.float32)
        cka_shared_LNN = cka_LNN.copy()
        shared_LNN = np.zeros((len(found), most, most), np.int32)
        layers: list[SimilarityLayer] = []
        for index, probe in enumerate(found):
            number = len(probe.cka_NN)
            cka_NN = probe.cka_NN.float().cpu().numpy()
            cka_LNN[index, :number, :number] = cka_NN
            shared_LNN[index, :number, :number] = probe.shared_NN.int().cpu().numpy()
            cka_shared_NN = probe.cka_shared_NN.numpy()
            cka_shared_LNN[index, :number, :number] = cka_shared_NN
            layers.append(probes.layer_summary(index, cka_NN, cka_shared_NN))
        name = probes.write(
            self._run,
            step,
            measure=MEASURE,
            tokens=max(probe.batch_tokens for probe in found),
            cka_LNN=cka_LNN,
            shared_LNN=shared_LNN,
            cka_shared_LNN=cka_shared_LNN,
        )
        self._log.emit(
            {
                "kind": "similarity",
                "step": step,
                "measure": MEASURE,
                "tokens": found[0].tokens,
                "fewest_shared": FEWEST_SHARED,
                "layers": layers,
                "matrices": name,
            }
        )

    def finish(self, step: int, reason: str) -> None:
        """Write that the training is over, and release the lock."""
        if self._log is not None:
            self._log.emit(
                {"kind": "run_finished", "step": step, "status": "finished", "reason": reason}
            )
            self._log.sync()
        self._open.close()
        self._log = None


def _kept_until(path: Path, step: int) -> tuple[int, RunStarted | None]:
    """The number of bytes of an events file up to and including this step, and the last
    run_started event in them."""
    end = 0
    started: RunStarted | None = None
    if path.is_file():
        with open(path, "rb") as file:
            for line in file:
                with contextlib.suppress(NotAnEvent):
                    event = parse_event(line)
                    if event["step"] > step:
                        break
                    if event["kind"] == "run_started":
                        started = event
                end += len(line)
    return end, started
