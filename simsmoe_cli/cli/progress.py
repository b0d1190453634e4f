"""What a training shows while it runs: a progress bar, plain lines, or JSON lines."""

from __future__ import annotations

import json
import sys
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from simsmoe_cli.rundir import RunDir


class TrainingView:
    """Shows the events of a run; use as a context manager.

    Args:
        console: where to print, of `common.console`; a bar is drawn only on a terminal.
        total_steps: steps of the whole training.
        run: the folder of the run.
        as_json: print every event as a line of JSON on stdout instead.
    """

    def __init__(self, console: Console, total_steps: int, *, run: RunDir, as_json: bool = False):
        self.console = console
        self.run = run
        self.total_steps = total_steps
        self.as_json = as_json
        self._progress: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal and not as_json:
            self._progress = Progress(
                TextColumn("[bold]step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._progress.add_task("train", total=total_steps, numbers="")

    def __enter__(self) -> TrainingView:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def on_step(self, step: int) -> None:
        """A step was done."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def on_event(self, event: dict[str, Any]) -> None:
        """Something happened."""
        if self.as_json:
            print(json.dumps(event), file=sys.stdout, flush=True)
            return
        if event["kind"] == "profile":
            self._show_profile(event)
            return
        line = _line(event, self.total_steps)
        if event["kind"] == "train" and self._progress is not None:
            numbers = f"{_score(event)}  {event['tokens_per_s']:,.0f} tokens/s"
            self._progress.update(self._task, completed=event["step"], numbers=numbers)
        elif line:
            style = "yellow" if event["kind"] == "warning" else None
            self.console.print(line, style=style, soft_wrap=True)

    def _show_profile(self, event: dict[str, Any]) -> None:
        folder = self.run.path / event["path"]
        text = (folder / event["summary"]).read_text(encoding="utf-8")
        self.console.print(f"\n{text}", soft_wrap=True)
        where = folder / event["trace"]
        self.console.print(
            f"trace in {where}; open it at ui.perfetto.dev or chrome://tracing\n", soft_wrap=True
        )


def _score(event: dict[str, Any]) -> str:
    if event.get("accuracy") is not None:
        return f"accuracy {event['accuracy']:.1%}"
    if event.get("bpc") is not None:
        return f"{event['bpc']:.3f} BPC"
    if event.get("perplexity") is not None:
        return f"perplexity {event['perplexity']:,.2f}"
    return f"{event['loss_nats']:.3f} nats"


def _line(event: dict[str, Any], total_steps: int) -> str:
    """One line about an event; empty for events that say nothing to a reader in passing."""
    step = f"step {event['step']:>{len(str(total_steps))}}/{total_steps}"
    match event["kind"]:
        case "train":
            left = (total_steps - event["step"]) * event["step_ms"] / 1000
            return (
                f"{step}  {_score(event)}  {event['tokens_per_s']:,.0f} tokens/s  "
                f"{_duration(left)} left"
            )
        case "eval":
            best = "  best so far" if event["best"] and event["split"] == "valid" else ""
            return f"{step}  {event['split']} {_score(event)}{best}"
        case "similarity":
            means = [layer["mean"] for layer in event["layers"] if layer["mean"] is not None]
            mean = f"{sum(means) / len(means):.3f}" if means else "undefined"
            return f"{step}  expert similarity (mean debiased CKA) {mean}"
        case "warning":
            return f"warning: {event['message']}"
    return ""


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
