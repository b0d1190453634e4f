"""What a train event says: means over the steps since the last one, and their speed.

Sums stay on the device until an event is due, and travel with checkpoints, so a resumed run
reports what an uninterrupted one would.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class LogWindow:
    """Sums of the steps since the last train event, fp32, by name.

    "task" is the task's loss in nats, "accuracy" the share of examples a classifier has right,
    "loss.NAME" an auxiliary loss, "grad_norm" the gradient norm, "pairs_due" and "similarity_sum"
    pairs measured and the sum of their similarity, "metric.NAME" and "reports.NAME" what routers
    report and how many layers reported it, "steps" the number of steps. `timed_steps` of them were
    taken since the clock was restarted.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self._since = time.perf_counter()
        self.timed_steps = 0

    def restore(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on with the window of a checkpoint: its tensors "window.NAME"; others are left alone.

        Raises:
            ValueError: they are no sums of a window.
        """
        sums = {
            name.removeprefix("window."): tensor
            for name, tensor in tensors.items()
            if name.startswith("window.")
        }
        reported = {n.replace("metric.", "reports.", 1) for n in sums if n.startswith("metric.")}
        needed = {"task", "grad_norm", "steps"} | reported if sums else set()
        if "pairs_due" in sums:
            needed.add("similarity_sum")
        if any(
            t.shape != () or t.dtype != torch.float32 or not t.isfinite() for t in sums.values()
        ):
            raise ValueError("the sums of the open log window are no numbers")
        if not needed <= sums.keys() or (sums and not sums["steps"] >= 1):
            raise ValueError("the open log window is not whole")
        self.sums = {name: tensor.to(device) for name, tensor in sums.items()}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add to the sums; does not wait on the device."""
        for name, value in values.items():
            value = value.float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def end_step(self, grad_norm: Tensor) -> None:
        """A step was done."""
        self.add({"grad_norm": grad_norm, "steps": torch.ones_like(grad_norm)})
        self.timed_steps += 1

    def restart_clock(self) -> None:
        """Time steps from now on."""
        self._since, self.timed_steps = time.perf_counter(), 0

    @contextlib.contextmanager
    def clock_paused(self) -> Iterator[None]:
        """Leave what happens inside out of the speed of training steps."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def close(self, tokens: int, *, in_bits: bool) -> dict[str, Any]:
        """Fields of the train event, all sums read at once; a new window begins.

        The host waits on the device here.

        Args:
            tokens: of the timed steps, for the speed.
            in_bits: whether the loss is also given as BPC.
        """
        names = list(self.sums)
        values = torch.stack([self.sums[name] for name in names]).tolist()
        sums = dict(zip(names, values, strict=True))
        steps = sums["steps"]
        loss_nats = sums["task"] / steps
        seconds = time.perf_counter() - self._since
        fields: dict[str, Any] = {
            "loss_nats": loss_nats,
            "bpc": loss_nats / math.log(2) if in_bits else None,
            "losses": {
                name.removeprefix("loss."): value / steps
                for name, value in sums.items()
                if name.startswith("loss.")
            },
            "grad_norm": sums["grad_norm"] / steps,
            "tokens_per_s": tokens / seconds,
            "step_ms": 1000 * seconds / self.timed_steps,
        }
        if "accuracy" in sums:
            fields["accuracy"] = sums["accuracy"] / steps
        if "pairs_due" in sums:
            due = sums["pairs_due"]
            fields["similarity"] = {
                "pairs_due": due / steps,
                "mean": sums["similarity_sum"] / due if due else None,
            }
        metrics = {
            name.removeprefix("metric."): value / sums[name.replace("metric.", "reports.", 1)]
            for name, value in sums.items()
            if name.startswith("metric.")
        }
        if metrics:
            fields["metrics"] = metrics
        self.sums = {}
        self.restart_clock()
        return fields
