"""Collects the numbers of a train event: means over the steps since the last one, and their speed.

Sums stay on the device until an event is due. Checkpoints hold them, so a resumed run reports the
same as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from simsmoe_cli.model.interface import Outcome
from simsmoe_cli.run.events import SimilarityLearning, Train

# Names of the sums. Checkpoints hold them, after "window.".
ACCURACY = "accuracy"  # share of texts that a classifier has right
_TASK = "task"  # loss of the task, nats
_STEPS = "steps"  # how many
_GRAD_NORM = "grad_norm"
_PAIRS_DUE = "pairs_due"  # pairs compared by similarity learning
_SIMILARITY = "similarity_sum"  # of these pairs
_LOSS = "loss."  # NAME: an auxiliary loss, nats
_METRIC = "metric."  # NAME: what routers report
_REPORTS = "reports."  # NAME: how many layers reported it
SLOTS = "slots."  # LAYER: routed slots of each expert, [N], since dead experts were last judged


@dataclass(frozen=True)
class Part:
    """A rank's part of a micro-batch.

    Attributes:
        targets: its share of what the loss of the task is averaged over.
        tokens: its share of the tokens, over which auxiliary losses are averaged.
    """

    targets: float = 1.0
    tokens: float = 1.0


WHOLE = Part()


class LogWindow:
    """Sums of the steps since the last train event, fp32, by name; `timed_steps` of the steps were
    taken since the clock was restarted. The slots of experts are summed over several windows.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self._since = time.perf_counter()
        self.timed_steps = 0

    def restore(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Restore the window of a checkpoint from its tensors "window.NAME"; others are ignored.

        Raises:
            ValueError: they are not the sums of a window.
        """
        sums = {
            name.removeprefix("window."): tensor
            for name, tensor in tensors.items()
            if name.startswith("window.")
        }
        reported = {n.replace(_METRIC, _REPORTS, 1) for n in sums if n.startswith(_METRIC)}
        scalars = [name for name in sums if not name.startswith(SLOTS)]
        needed = {_TASK, _GRAD_NORM, _STEPS} | reported if scalars else set()
        if _PAIRS_DUE in sums:
            needed.add(_SIMILARITY)
        if any(
            t.ndim != name.startswith(SLOTS) or t.dtype != torch.float32 or not t.isfinite().all()
            for name, t in sums.items()
        ):
            raise ValueError("the sums of the open log window are not finite numbers")
        if not needed <= sums.keys() or (needed and not sums[_STEPS] >= 1):
            raise ValueError("the open log window is not whole")
        self.sums = {name: tensor.to(device) for name, tensor in sums.items()}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add to the sums; does not wait on the device."""
        for name, value in values.items():
            _add(self.sums, name, value.float())

    def end_step(self, grad_norm: Tensor) -> None:
        """A step was done."""
        self.add({_GRAD_NORM: grad_norm, _STEPS: torch.ones_like(grad_norm)})
        self.timed_steps += 1

    def restart_clock(self) -> None:
        """Time steps from now on."""
        self._since, self.timed_steps = time.perf_counter(), 0

    @contextlib.contextmanager
    def clock_paused(self) -> Iterator[None]:
        """Do not count the time inside for the speed of training steps."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def close(
        self,
        step: int,
        *,
        tokens: int,
        timed_tokens: int,
        lr: float,
        similarity: Mapping[str, float],
        in_bits: bool,
    ) -> Train:
        """The train event, all sums read at once; a new window begins.

        The host waits on the device here.

        Args:
            step: steps done.
            tokens: read since the training began.
            timed_tokens: of the timed steps, for the speed.
            lr: learning rate of the last step.
            similarity: settings of similarity learning in force, by name.
            in_bits: whether the loss is also given as BPC.
        """
        slots = {name: value for name, value in self.sums.items() if name.startswith(SLOTS)}
        names = [name for name in self.sums if name not in slots]
        values = torch.stack([self.sums[name] for name in names]).tolist()
        sums = dict(zip(names, values, strict=True))
        steps = sums[_STEPS]
        loss_nats = sums[_TASK] / steps
        seconds = time.perf_counter() - self._since
        losses = {name: value / steps for name, value in _named(_LOSS, sums)}
        event: Train = {
            "kind": "train",
            "step": step,
            "loss_nats": loss_nats,
            "bpc": loss_nats / math.log(2) if in_bits else None,
            "losses": losses,
            "grad_norm": sums[_GRAD_NORM] / steps,
            "tokens_per_s": timed_tokens / seconds,
            "step_ms": 1000 * seconds / self.timed_steps,
            "lr": lr,
            "tokens": tokens,
        }
        if ACCURACY in sums:
            event["accuracy"] = sums[ACCURACY] / steps
        if _PAIRS_DUE in sums:
            due = sums[_PAIRS_DUE]
            mean = sums[_SIMILARITY] / due if due else None
            event["similarity"] = {"pairs_due": due / steps, "mean": mean}
            event["similarity"].update(cast(SimilarityLearning, similarity))
        if metrics := {n: value / sums[_REPORTS + n] for n, value in _named(_METRIC, sums)}:
            event["metrics"] = dict(metrics)
        self.sums = slots
        self.restart_clock()
        return event

    def slots(self, layers: int) -> list[list[int]]:
        """Routed slots of each expert of each layer since they were last forgotten; empty lists
        where there were none. The host waits on the device here.
        """
        found = (self.sums.get(f"{SLOTS}{layer}") for layer in range(layers))
        return [[] if slots_N is None else slots_N.long().tolist() for slots_N in found]

    def forget_slots(self) -> None:
        """Count slots from 0 again."""
        self.sums = {n: value for n, value in self.sums.items() if not n.startswith(SLOTS)}


def measured(task: Tensor, output: Outcome, part: Part = WHOLE) -> dict[str, Tensor]:
    """The values that a micro-batch adds to the window, detached; those of all ranks are summed.

    Args:
        task: the loss of the task.
        output: with auxiliary losses, and the results of similarity learning and routers in each
            layer.
        part: of the micro-batch.
    """
    found: dict[str, Tensor] = {}
    found |= {_LOSS + name: loss.detach() for name, loss in output.losses.items()}
    for similarity in output.similarities:
        due = similarity.pairs_due
        _add(found, _PAIRS_DUE, due.detach())
        _add(found, _SIMILARITY, (similarity.mean * due).nan_to_num().detach())
    for metrics in output.metrics:
        for metric, value in metrics.items():
            _add(found, _METRIC + metric, value.detach())
            _add(found, _REPORTS + metric, torch.ones_like(value))
    if part != WHOLE:
        found = {name: value * part.tokens for name, value in found.items()}
        task = task * part.targets
    slots = {f"{SLOTS}{layer}": slots_N.detach() for layer, slots_N in enumerate(output.slots)}
    return {_TASK: task.detach()} | found | slots


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value


def _named(prefix: str, sums: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Sums whose names begin with the prefix, by the rest of their names."""
    for name, value in sums.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), value
