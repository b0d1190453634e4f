"""Profiles some training steps: their time and memory by part of the model and by operation.

After a few steps, N steps are recorded by torch's profiler: a trace, and a summary. Modules are
watched only while steps are recorded. A run without a profile uses only `Unprofiled`. A compiled
step is not changed, so its forward pass is one part.

The backward pass is split into the same parts: each node of autograd has the sequence number of the
operation that created it, and that operation belongs to some part.
"""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from simsmoe_cli.errors import UserError
from simsmoe_cli.model.attention import RelativeAttention, RopeAttention
from simsmoe_cli.model.blocks import DenseFFN
from simsmoe_cli.model.interface import MoEModel
from simsmoe_cli.model.language_model import Backbone
from simsmoe_cli.moe.experts.base import Experts
from simsmoe_cli.moe.layer import MoELayer
from simsmoe_cli.moe.routers.base import Router
from simsmoe_cli.similarity.learning import SimilarityLearning

SKIPPED = 3
SHOWN = 15
TRACE, SUMMARY = "trace.json.gz", "summary.txt"
_MARK = "simsmoe: "
_ENGINE = "autograd::engine::evaluate_function"
_BACKWARD_SCOPE = 1  # of at::RecordScope: a node of autograd

# Modules and what their forward pass is called.
PARTS: dict[type[nn.Module], str] = {
    nn.Embedding: "embedding",
    RelativeAttention: "attention",
    RopeAttention: "attention",
    DenseFFN: "dense feed-forward",
    MoELayer: "dispatch and combine",
    Router: "router",
    Experts: "experts",
    SimilarityLearning: "similarity learning",
}
INSIDE = "norms and residuals"
FORWARD, BACKWARD = "output layer and loss", "gradients that are added up"
READING, UPDATE, ASIDE = "reading", "clipping and optimizer", "validation, probes, checkpoints"
# Parts that other parts are used in, which then belong to them.
WHOLE = {PARTS[SimilarityLearning], ASIDE}

T = TypeVar("T")


class Unprofiled:
    """Does nothing: stands in for `Profiler` in a run without a profile."""

    def part(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """Around a part of a step."""
        return contextlib.nullcontext()

    def reading(self, batches: Iterable[T]) -> Iterable[T]:
        """The batches of a step, with the time of reading them measured."""
        return batches

    def step_done(self) -> bool:
        """To be called after each step; returns whether a profile was written just now."""
        return False

    def close(self) -> None:
        """At the end of a training, however it ends."""


class Profiler(Unprofiled):
    """Records N steps of a training after the first SKIPPED.

    Args:
        folder: for trace and summary; created when they are written.
        steps: N.
        left: steps that the training still has.
        model: its parts are profiled separately.
        compiled: whether the step is compiled.
        tokens: of a batch, for the summary; 0 where batches differ.

    Raises:
        UserError: the training has too few steps left.
    """

    def __init__(
        self, folder: Path, steps: int, left: int, model: MoEModel, *, compiled: bool, tokens: int
    ):
        if steps + SKIPPED > left:
            raise UserError(
                f"{left:,} steps are left, and a profile of {steps:,} needs {steps + SKIPPED:,} "
                f"(the first {SKIPPED} warm up)",
                where="--profile",
                hint=f"Use --profile {left - SKIPPED}." if left > SKIPPED else "Train longer.",
            )
        self.folder, self.steps, self.model, self.tokens = folder, steps, model, tokens
        self.compiled = compiled
        self._done = 0
        self._open: list[Any] = []
        self._undo = contextlib.ExitStack()
        self._profile: profile | None = None

    def part(self, name: str) -> contextlib.AbstractContextManager[Any]:
        if self._profile is None:
            return contextlib.nullcontext()
        return record_function(_MARK + name)

    def reading(self, batches: Iterable[T]) -> Iterator[T]:
        left = iter(batches)
        while True:
            with self.part(READING):
                try:
                    batch = next(left)
                except StopIteration:
                    return
            yield batch

    def step_done(self) -> bool:
        self._done += 1
        if self._done == SKIPPED:
            self._start()
        if self._profile is None or self._done < SKIPPED + self.steps:
            return False
        self._profile.stop()
        self._undo.close()
        recorded, self._profile = self._profile, None
        self.folder.mkdir(exist_ok=True)
        recorded.export_chrome_trace(str(self.folder / TRACE))
        text = summary(recorded, self.steps, self.tokens, compiled=self.compiled)
        (self.folder / SUMMARY).write_text(text, encoding="utf-8")
        return True

    def close(self) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
        self._undo.close()

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if next(self.model.parameters()).device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        if not self.compiled:
            self._watch()
        self._profile = profile(activities=activities, profile_memory=True, acc_events=True)
        self._profile.start()

    def _watch(self) -> None:
        """Mark the parts of the model, until the end of the recording."""

        def enter(name: str) -> None:
            mark = record_function(_MARK + name)
            mark.__enter__()
            self._open.append(mark)

        def leave() -> None:
            self._open.pop().__exit__(None, None, None)

        for module in self.model.modules():
            name = next((name for kind, name in PARTS.items() if isinstance(module, kind)), None)
            if name is not None:
                before = module.register_forward_pre_hook(lambda *_, name=name: enter(name))
                after = module.register_forward_hook(lambda *_: leave())
                self._undo.callback(before.remove)
                self._undo.callback(after.remove)
            if isinstance(module, SimilarityLearning):
                # The MoE layer calls these, since it runs the compared rows with the batch's own.
                for method in ("choose", "compare"):
                    self._mark(module, method, PARTS[SimilarityLearning])

        if not isinstance(self.model, Backbone):  # the parts of other models are not known
            return
        self._mark(self.model, "encode", INSIDE)

    def _mark(self, module: nn.Module, method: str, name: str) -> None:
        """Mark the calls of a module's method."""
        plain = getattr(module, method)

        def marked(*arguments: Any, **options: Any) -> Any:
            with record_function(_MARK + name):
                return plain(*arguments, **options)

        object.__setattr__(module, method, marked)
        self._undo.callback(object.__delattr__, module, method)


@dataclass
class PartCost:
    """Cost of one part in all recorded steps.

    Attributes:
        forward, backward: seconds; where the two cannot be separated, all of it is in forward.
        kept: bytes that were allocated in its forward passes and not freed there.
    """

    forward: float = 0.0
    backward: float = 0.0
    kept: int = 0


def part_costs(events: Iterable[FunctionEvent], *, on_device: bool) -> dict[str, PartCost]:
    """Cost of each part itself, without the parts inside it.

    Args:
        events: of a profile, parts marked.
        on_device: count the time of kernels instead of the host's.
    """
    host = [event for event in events if event.device_type.name == "CPU"]
    costs: defaultdict[str, PartCost] = defaultdict(PartCost)
    part_of_sequence: dict[int, str] = {}
    for event in sorted(host, key=lambda event: event.time_range.start):
        part = _part(event)
        if part is None:
            continue
        if event.name.startswith(_MARK):
            costs[part].forward += _seconds(event, on_device)
            costs[part].kept += _memory(event, on_device)
            outer = _part(event.cpu_parent) if event.cpu_parent is not None else None
            if outer is not None:
                costs[outer].forward -= _seconds(event, on_device)
                costs[outer].kept -= _memory(event, on_device)
        elif event.sequence_nr >= 0 and event.scope != _BACKWARD_SCOPE and part != BACKWARD:
            part_of_sequence[event.sequence_nr] = part
    for event in host:
        if not event.name.startswith(_ENGINE):
            continue
        nodes = [child for child in event.cpu_children if child.scope == _BACKWARD_SCOPE]
        numbers = [node.sequence_nr for node in nodes if node.sequence_nr >= 0]
        part = part_of_sequence.get(numbers[0]) if numbers else None
        if part is not None:
            seconds = _seconds(event, on_device)
            costs[part].backward += seconds
            costs[BACKWARD].forward -= seconds
    return dict(costs)


@dataclass
class OperationCost:
    """Cost of one operation itself, without operations it calls: seconds, calls, bytes."""

    name: str
    seconds: float = 0.0
    calls: int = 0
    memory: int = 0


def _operations(events: Iterable[FunctionEvent], *, on_device: bool) -> list[OperationCost]:
    """The operations of training steps, the most expensive first."""
    costs: dict[str, OperationCost] = {}
    for event in events:
        on_host = event.device_type.name == "CPU"
        if not on_host or event.name.startswith(_MARK) or _part(event) == ASIDE:
            continue
        cost = costs.setdefault(event.name, OperationCost(event.name))
        microseconds = event.self_device_time_total if on_device else event.self_cpu_time_total
        cost.seconds += microseconds / 1e6
        cost.calls += 1
        cost.memory += event.self_device_memory_usage if on_device else event.self_cpu_memory_usage
    return sorted(costs.values(), key=lambda cost: -cost.seconds)


def _part(event: FunctionEvent | None) -> str | None:
    """The innermost part an event lies in; a part in WHOLE takes all events inside it."""
    found = None
    while event is not None:
        if event.name.startswith(_MARK):
            name = event.name.removeprefix(_MARK)
            if name in WHOLE:
                return name
            found = found or name
        event = event.cpu_parent
    return found


def _seconds(event: FunctionEvent, on_device: bool) -> float:
    return float(event.device_time_total if on_device else event.cpu_time_total) / 1e6


def _memory(event: FunctionEvent, on_device: bool) -> int:
    return int(event.device_memory_usage if on_device else event.cpu_memory_usage)


def summary(recorded: profile, steps: int, tokens: int, *, compiled: bool) -> str:
    """The tables of a profile, as text."""
    events = recorded.events()
    assert events is not None
    on_device = ProfilerActivity.CUDA in recorded.activities
    costs = part_costs(events, on_device=on_device)
    aside = costs.pop(ASIDE, PartCost())
    total = sum(cost.forward + cost.backward for cost in costs.values())
    where = "on the GPU" if on_device else "on the CPU"
    size = f" of {tokens:,} tokens" if tokens else ""
    lines = [
        f"{steps} training steps{size}: {_ms(total / steps)} each {where}, slowed "
        "down by being watched.",
    ]
    if compiled:
        lines.append("The step is compiled, so its forward pass is one part.")
    if aside.forward:
        seconds = aside.forward + aside.backward
        lines.append(f"Between them {seconds:.2f} s of {ASIDE}, not counted.")
    lines += ["", f"{'part':<32}{'share':>8}{'forward':>12}{'backward':>12}{'kept':>12}"]
    ranked = sorted(costs.items(), key=lambda item: -(item[1].forward + item[1].backward))
    for name, cost in ranked:
        both = cost.forward + cost.backward
        kept = "" if name in (READING, BACKWARD, UPDATE) else _size(cost.kept / steps)
        lines.append(
            f"{name:<32}{both / total:>8.1%}{_ms(cost.forward / steps):>12}"
            f"{_ms(cost.backward / steps):>12}{kept:>12}"
        )
    lines += [
        "",
        "Times are those of one step; kept is what a forward pass leaves in memory for its "
        "backward pass, below zero where it frees what others left.",
        "",
        f"{'operation':<48}{'share':>8}{'time':>12}{'calls':>8}{'memory':>12}",
    ]
    operations = _operations(events, on_device=on_device)
    everything = sum(one.seconds for one in operations) or 1.0
    for one in operations[:SHOWN]:
        lines.append(
            f"{one.name[:46]:<48}{one.seconds / everything:>8.1%}{_ms(one.seconds / steps):>12}"
            f"{one.calls / steps:>8.0f}{_size(one.memory / steps):>12}"
        )
    lines += [
        "",
        "Time and memory are an operation's own, in one step, without operations it calls.",
        f"Peak memory: {_peak(on_device)}.",
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.2f} ms"


def _size(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _peak(on_device: bool) -> str:
    if on_device:
        return f"{_size(torch.cuda.max_memory_allocated())} of the GPU"
    try:
        import resource
    except ImportError:
        return "not known here"
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{_size(used * (1 if sys.platform == 'darwin' else 1024))} of the process"
