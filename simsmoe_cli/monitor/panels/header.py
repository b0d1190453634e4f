"""The header: names of the runs, their settings, progress and speed.

It is drawn above the panels and is not one of them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from rich.text import Text

from simsmoe_cli.monitor.draw.palette import Palette
from simsmoe_cli.monitor.draw.text import cut
from simsmoe_cli.monitor.state.run import RunHistory, Status
from simsmoe_cli.monitor.view import ShownRun, View
from simsmoe_cli.run.duration import duration
from simsmoe_cli.run.events import Machine

BAR = 12
WIDE = 110  # cells from which the settings of a run fit beside its name


def height(runs: int, width: int, window: int) -> int:
    """Its lines for a number of runs, in a window of this width and height."""
    return min(runs + 1 + (width < WIDE), max(3, window // 5))


def depends_on(view: View) -> Hashable:
    """Everything that the lines depend on except size and colours."""
    # Status and ETA change with time alone; ETA to the second.
    moving = tuple(
        (_status_words(run, view.now), round(run.history.eta_seconds(view.now) or 0))
        for run in view.runs
    )
    return (moving, view.runs, view.selection.run)


def draw(view: View, width: int, height: int) -> list[Text]:
    """A line for each run, and one or two more for the run chosen."""
    chosen = view.selection.run
    narrow = width < WIDE
    room = max(1, height - 1 - narrow)
    first = max(0, min(chosen - room // 2, len(view.runs) - room))
    lines = []
    for index in range(first, min(len(view.runs), first + room)):
        line = _who(view, index, width)
        history = view.runs[index].history
        beside = machine_words(history.machine)
        facts = _that_fit(beside if narrow else _facts(history) + beside, width - line.cell_len - 2)
        line.append(" " * (width - line.cell_len - facts.cell_len)).append_text(facts)
        if index == chosen and view.several:
            line.stylize("reverse", 0, 1)
        lines.append(line)
    if narrow:
        lines.append(_that_fit(_facts(view.chosen), width))
    lines.append(_where(view, width))
    return lines


def _who(view: View, index: int, width: int) -> Text:
    """Name and state."""
    run, palette = view.runs[index], view.palette
    history = run.history
    words = f"  {_status_words(run, view.now)}"
    status = history.status_at(view.now)
    if status == "training" and math.isfinite(history.progress) and view.several:
        words += f" {history.progress:.0%}"  # the last line shows it only for the chosen run
    line = Text(no_wrap=True).append("● ", view.color_of(index))
    name = cut(Text(history.name, style="bold"), max(8, width - 2 - len(words)))
    style = status_style(status, palette)
    return cut(line.append_text(name).append(words, style), width)


def status_style(status: Status, palette: Palette) -> str:
    """The style of a run's status, here and in the picker."""
    color = {
        "training": palette.primary,
        "finished": palette.success,
        "trained": palette.warning,
        "stopped": palette.warning,
        "stale": palette.warning,
        "failed": palette.error,
    }.get(status)
    return f"bold {color}" if color else "dim"


def _status_words(run: ShownRun, now: float) -> str:
    """The state of a run, and whether its file is missing, being read or silent."""
    status = run.history.status_at(now)
    if run.history.missing and run.history.total_events:
        return f"{status}, its events are gone"
    if run.reading and run.history.total_events:
        return f"{status}, reading"
    if status == "stale" and math.isfinite(quiet := run.history.quiet_s(now)):
        return f"{status}, no event for {duration(quiet)}"
    return status


def _facts(history: RunHistory) -> list[str]:
    """Recipe, router, similarity preset, size and device."""
    return [
        history.recipe_name,
        history.router,
        f"similarity {history.similarity}" if history.similarity else "",
        f"{millions(history.parameters)} parameters" if history.parameters else "",
        " ".join(part for part in (history.device, history.precision) if part),
    ]


def _that_fit(facts: Sequence[str], width: int) -> Text:
    """Facts beside each other; the first are left out where there is too little room."""
    told = [fact for fact in facts if fact]
    while len(told) > 1 and len(" · ".join(told)) > width:
        told.pop(0)
    return cut(Text(" · ".join(told), style="dim", no_wrap=True), width)


def machine_words(machine: Machine) -> list[str]:
    """What a training process takes of its machine."""
    gpu = []
    if (percent := machine.get("gpu_percent")) is not None:
        gpu.append(f"{percent}%")
    if (used := machine.get("gpu_mb")) and (total := machine.get("gpu_total_mb")):
        gpu.append(f"{used / 1000:.1f}/{total / 1000:.0f} GB")
    cpu, ram = machine.get("cpu_percent"), machine.get("ram_mb")
    return [
        f"GPU {' '.join(gpu)}" if gpu else "",
        f"CPU {cpu}%" if cpu is not None else "",
        f"RAM {ram / 1000:.1f} GB" if ram is not None else "",
    ]


def _where(view: View, width: int) -> Text:
    """Progress, speed and score of the chosen run; without the bar where there is too little
    room."""
    history = view.chosen
    bar = Text()
    if not math.isnan(history.progress):
        done = round(BAR * history.progress)
        rest = "━" if view.color else "─"
        bar.append("━" * done, view.palette.primary).append(rest * (BAR - done), "dim")
        bar.append(f" {history.progress:.0%}")
    of = f"/{history.total_steps:,}" if history.total_steps else ""
    eta = history.eta_seconds(view.now)
    rate = history.last("tokens_per_s")
    told = [
        ("step ", f"{history.step:,}{of}"),
        ("ETA ", "–" if eta is None else duration(eta)),
        ("", f"{rate:,.0f} tokens/s" if math.isfinite(rate) else "– tokens/s"),
    ]
    if history.ranks:
        told.append(("", f"{history.ranks:,} ranks"))
        if history.slowest is not None:
            rank, ratio = history.slowest
            told.append(("slowest ", f"{rank} ({ratio:.2f}x)"))
    if math.isfinite(history.best_score):
        told.append(("best ", f"{history.best_score:.3f} at {history.best_step:,}"))
    if math.isfinite(history.test_score):
        told.append(("test ", f"{history.test_score:.3f}"))
    parts = [Text.assemble((label, "dim"), value) for label, value in told]
    between = Text(" · ", style="dim")
    line = between.join([bar, *parts] if bar else parts)
    return cut(line if line.cell_len <= width else between.join(parts), width)


def millions(count: int) -> str:
    """A count with a unit: 950, 12.3 k, 4.56 M, 1.2 G."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)
