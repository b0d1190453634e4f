"""The summary of a profile: time and memory of each part of a training step and of each operation.

Parts are ranges that `profiling.py` marks with MARK and a name. The backward pass is split into the
same parts: each node of autograd has the sequence number of the operation that created it, and that
operation belongs to some part.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

MARK = "simsmoe: "
SHOWN = 15  # operations
SIMILARITY = "similarity learning"
INSIDE = "norms and residuals"
FORWARD, BACKWARD = "output layer and loss", "gradients that are added up"
READING, UPDATE, ASIDE = "reading", "clipping and optimizer", "validation, probes, checkpoints"
# Parts that other parts are used in, which then belong to them.
WHOLE = {SIMILARITY, ASIDE}
_ENGINE = "autograd::engine::evaluate_function"
_BACKWARD_SCOPE = 1  # of at::RecordScope: a node of autograd


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
        if event.name.startswith(MARK):
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
        if not on_host or event.name.startswith(MARK) or _part(event) == ASIDE:
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
        if event.name.startswith(MARK):
            name = event.name.removeprefix(MARK)
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
    ]
    operations = _operations(events, on_device=on_device)
    everything = sum(one.seconds for one in operations) or 1.0
    shown = operations[:SHOWN]
    # Whole names: that of a backward pass often differs from its forward pass's only at the end.
    width = max([48, *(len(one.name) + 2 for one in shown)])
    lines.append(f"{'operation':<{width}}{'share':>8}{'time':>12}{'calls':>8}{'memory':>12}")
    for one in shown:
        lines.append(
            f"{one.name:<{width}}{one.seconds / everything:>8.1%}{_ms(one.seconds / steps):>12}"
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
