"""Progress of a training or a report: a bar, plain lines, or JSON lines.

Inside `unwatched`, training continues when nothing reads its output any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from simsmoe_cli.errors import printable
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.score import score_text


class _Forgiving:
    """A stream that drops everything after the first write that fails."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As a stream does."""
        with self._forgiven():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """As a stream does."""
        with self._forgiven():
            self._stream.flush()

    @contextlib.contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):
            # Python complains at exit if the buffer cannot be flushed, so it is flushed to nowhere.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Keep going when the output is closed, its disk is full or its terminal goes away."""
    kept = sys.stdout, sys.stderr
    hung_up = None
    if threading.current_thread() is threading.main_thread():
        hung_up = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.stdout, sys.stderr = (
        cast(TextIO, _Forgiving(stream)) if stream is not None else stream for stream in kept
    )
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = kept
        if hung_up is not None:
            signal.signal(signal.SIGHUP, hung_up)


class TrainingView:
    """Shows the events of a run; use as a context manager.

    Args:
        console: where to print, of `options.console`; a bar is drawn only on a terminal.
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
        self._numbers = ""
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

    def __exit__(self, *exception: object) -> None:
        if self._progress is not None:
            self._progress.update(self._task, numbers=self._numbers)
            self._progress.stop()

    def watch(self, profile: int) -> dict[str, Any]:
        """The arguments of `session.train` and `session.finetune` that report to this view, and the
        number of steps to profile."""
        return {"subscriber": self.on_event, "on_step": self.on_step, "profile": profile}

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
            self._numbers = f"{score_text(event)}  {event['tokens_per_s']:,.0f} tokens/s"
            # Evaluating the test split can take minutes.
            after = "  evaluating" if event["step"] == self.total_steps else ""
            self._progress.update(
                self._task,
                completed=event["step"],
                numbers=self._numbers + after,
                refresh=bool(after),
            )
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


class ReportView:
    """Shows the progress of a report; use as a context manager.

    On a terminal, one line is updated with the progress and the remaining time. Otherwise one line
    is printed for each tenth.

    Args:
        console: where to print, of `options.console` for stderr.
        words: what is done first.
    """

    def __init__(self, console: Console, words: str):
        self.console = console
        self._status = console.status(words) if console.is_terminal else None
        self._started, self._tenth, self._last = time.monotonic(), 0, 0.0

    def __enter__(self) -> ReportView:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, words: str) -> None:
        """Print a line that stays, and restart the progress."""
        self.console.print(words, soft_wrap=True)
        self._started, self._tenth, self._last = time.monotonic(), 0, 0.0

    def at(self, words: str, share: float) -> None:
        """Show the share that is done, 0 to 1, and the current activity."""
        self._last = max(self._last, share)
        if 0.02 <= self._last < 1:
            took = time.monotonic() - self._started
            words += f", {duration(took * (1 - self._last) / self._last)} left"
        if self._status is not None:
            self._status.update(words)
        elif int(self._last * 10) > self._tenth:
            self._tenth = int(self._last * 10)
            self.console.print(f"{self._tenth * 10:3} % {words}", soft_wrap=True)


def _line(event: dict[str, Any], total_steps: int) -> str:
    """One line about an event; empty for events that are not shown."""
    step = f"step {event['step']:>{len(str(total_steps))}}/{total_steps}"
    match event["kind"]:
        case "run_started" if "compare_every" in event:
            return f"similarity learning: {cost_in_words(event)}"
        case "train":
            left = (total_steps - event["step"]) * event["step_ms"] / 1000
            return (
                f"{step}  {score_text(event)}  {event['tokens_per_s']:,.0f} tokens/s  "
                f"{duration(left)} left"
            )
        case "eval":
            best = "  best so far" if event["best"] and event["split"] == "valid" else ""
            return f"{step}  {event['split']} {score_text(event)}{best}"
        case "similarity":
            means = [layer["mean"] for layer in event["layers"] if layer["mean"] is not None]
            mean = f"{sum(means) / len(means):.3f}" if means else "undefined"
            return f"{step}  expert similarity (mean debiased CKA) {mean}"
        case "warning":
            return f"warning: {printable(event['message'], 1000)}"
    return ""


def cost_in_words(event: dict[str, Any]) -> str:
    """How often experts are compared, and what that costs, from the fields of `RunStarted`."""
    every = event["compare_every"]
    often = "in every step" if every == 1 else f"every {every} steps"
    return f"experts are compared {often}, for {event['similarity_flops']:.1%} of a step's FLOPs"


def duration(seconds: float) -> str:
    """A time as 0:42, 12:05 or 3:07:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
