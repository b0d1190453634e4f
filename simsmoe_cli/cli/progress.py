"""Progress of a training or a report: a bar, plain lines, or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from simsmoe_cli.cli.silence import SilenceBreaker, say_aside
from simsmoe_cli.cli.start import about, fact, start_lines, steps_of_evaluations
from simsmoe_cli.errors import printable
from simsmoe_cli.run.changes import changes_in_words
from simsmoe_cli.run.events import Event
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.score import score_text

if TYPE_CHECKING:
    from simsmoe_cli.recipe.schedule import Schedule
    from simsmoe_cli.train.objectives.base import Objective

STARTING, TESTING = "reading the data and building the model", "testing"
TIMED, SLOW_S = 3, 5.0  # steps that are timed; one that takes longer is enough
FIRST_S = 1.0  # no tenth of the test is printed before
LEAST_SHARE = 0.02  # no time left is estimated before


class TrainingView:
    """Shows the events of a run; use as a context manager.

    On a terminal there is a bar. Elsewhere each event is a line, and another line says how far the
    training is whenever nothing was printed for nine seconds.

    Args:
        console: where to print, of `options.console`.
        total_steps: steps of the whole training.
        run: the folder of the run.
        loggers: given every event too.
        as_json: print every event as a line of JSON on stdout instead.
    """

    def __init__(
        self,
        console: Console,
        total_steps: int,
        *,
        run: RunDir,
        loggers: Callable[[Event], None] | None = None,
        as_json: bool = False,
    ):
        self.console = console
        self.run = run
        self.total_steps = total_steps
        self.loggers, self.as_json = loggers, as_json
        self._progress: Progress | None = None
        self._silence = SilenceBreaker(self._break_silence)
        self._numbers = ""
        self._task = TaskID(0)
        self._step = self._first = 0
        self._evaluations: float | None = None  # in steps, until the time was estimated
        self._first_s, self._on_gpu = 0.0, False
        self._part, self._share, self._tenth = STARTING, 0.0, 0
        self._part_began = self._steps_began = time.monotonic()
        if console.is_terminal and not as_json:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("[bold]step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._progress.add_task("train", total=total_steps, numbers=STARTING)

    def __enter__(self) -> TrainingView:
        if self._progress is not None:
            self._progress.start()
        elif not self.console.quiet:
            self._silence.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._silence.stop()
        if self._progress is not None:
            self._progress.update(self._task, numbers=self._numbers)
            self._progress.stop()

    def watch(self, profile: int) -> dict[str, Any]:
        """The arguments of `session.train` and `session.finetune` that report to this view, and the
        number of steps to profile."""
        return {
            "subscriber": self.on_event,
            "on_step": self.on_step,
            "on_part": self.on_part,
            "on_ready": self.on_ready,
            "profile": profile,
        }

    def on_ready(self, objective: Objective[Any], step: int) -> None:
        """The training begins, after these steps."""
        self._step = self._first = step
        self._on_gpu = objective.device.type != "cpu"
        self._enter("")
        for line in start_lines(objective, step):
            self._print(line)
        self._evaluations = steps_of_evaluations(objective, step)
        if self._progress is not None:
            self._progress.update(self._task, completed=step, numbers="")
        self._steps_began = time.monotonic()

    def on_step(self, step: int) -> None:
        """A step was done."""
        self._step = step
        self._enter("")
        self._estimate_time(step)
        if self._progress is not None:
            self._progress.update(self._task, completed=step, numbers=self._numbers)

    def on_part(self, part: str, share: float) -> None:
        """A part, such as "validating", is done to this share."""
        if part != self._part or share < self._share:
            self._enter(part)
        self._share = share
        if self._progress is not None:
            numbers = f"{self._numbers}  {self._part_in_words()}".strip()
            self._progress.update(self._task, numbers=numbers if share < 1 else self._numbers)
        elif part == TESTING and int(10 * share) > self._tenth:
            self._tenth = int(10 * share)
            if share < 1 and time.monotonic() - self._part_began > FIRST_S:
                self._print(self._where())

    def on_event(self, event: dict[str, Any]) -> None:
        """Something happened."""
        if self.loggers is not None:
            self.loggers(cast(Event, event))
        if self.as_json:
            print(json.dumps(event), file=sys.stdout, flush=True)
            self._silence.heard()
            return
        if event["kind"] == "train":
            self._estimate_time(event["step"], event["step_ms"] / 1000)
        if event["kind"] == "profile":
            self._show_profile(event)
            return
        lines = _lines(event, self.total_steps)
        if event["kind"] == "train" and self._progress is not None:
            self._numbers = f"{score_text(event)}  {event['tokens_per_s']:,.0f} tokens/s"
            self._progress.update(self._task, completed=event["step"], numbers=self._numbers)
            return
        for line in lines:
            self._print(line, style="yellow" if event["kind"] == "warning" else None)

    def _estimate_time(self, step: int, step_s: float | None = None) -> None:
        """Say once how long the training will take, as soon as its first steps tell.

        Args:
            step: steps done.
            step_s: the time of one, if it is known; otherwise the clock is read. That of a GPU is
                known only from a train event, because the host is ahead of the device.
        """
        if self._evaluations is None:
            return
        now, done = time.monotonic(), step - self._first
        if step_s is None:
            if self._on_gpu:
                return
            if done == 1:
                self._first_s = now - self._steps_began
                step_s = self._first_s if self._first_s > SLOW_S else None
            elif done == TIMED:
                step_s = (now - self._steps_began - self._first_s) / (TIMED - 1)
            if step_s is None:
                return
        left = self.total_steps - step + self._evaluations
        self._evaluations = None
        self._print(fact("time", f"{about(left * step_s)}, with validations and test"))

    def _enter(self, part: str) -> None:
        self._part, self._share, self._tenth = part, 0.0, 0
        self._part_began = time.monotonic()

    def _part_in_words(self) -> str:
        """Such as "testing 12 %, 0:40 left"."""
        took = time.monotonic() - self._part_began
        if self._part == STARTING:
            return f"{STARTING}, {duration(took)} so far"
        words = f"{self._part} {self._share:.0%}".replace("%", " %")
        if self._share >= LEAST_SHARE:
            words += f", {duration(took * (1 - self._share) / self._share)} left"
        return words

    def _where(self) -> str:
        """How far the training is, in words."""
        if self._part == STARTING:
            return self._part_in_words()
        step = _step(self._step, self.total_steps)
        if self._part:
            return f"{step}  {self._part_in_words()}"
        took = time.monotonic() - self._steps_began
        done = self._step - self._first
        if not done:
            return f"{step}  in its first step, {duration(took)} so far"
        return f"{step}  {duration(took * (self.total_steps - self._step) / done)} left"

    def _break_silence(self) -> None:
        say_aside(self.console, self._where())

    def _print(self, line: str, style: str | None = None) -> None:
        self._silence.heard()
        self.console.print(line, style=style, soft_wrap=True)

    def _show_profile(self, event: dict[str, Any]) -> None:
        folder = self.run.path / event["path"]
        self._print(f"\n{(folder / event['summary']).read_text(encoding='utf-8')}")
        where = folder / event["trace"]
        self._print(f"trace in {where}; open it at ui.perfetto.dev or chrome://tracing\n")


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


def _step(step: int, total_steps: int) -> str:
    return f"step {step:>{len(str(total_steps))}}/{total_steps}"


def _lines(event: dict[str, Any], total_steps: int) -> list[str]:
    """An event in lines; none for events that are not shown."""
    step = _step(event["step"], total_steps)
    match event["kind"]:
        case "run_started":
            changes = changes_in_words(event.get("changes", []))
            lines = [f"{change} from step {event['step']}" for change in changes]
            if "compare_every" in event:
                lines.append(f"similarity learning: {cost_in_words(event)}")
                weight = event["recipe"]["similarity"]["weight"]
                if isinstance(weight, list):
                    lines.append(f"similarity learning: {weight_in_words(weight, total_steps)}")
            return lines
        case "train":
            left = (total_steps - event["step"]) * event["step_ms"] / 1000
            return [
                f"{step}  {score_text(event)}  {event['tokens_per_s']:,.0f} tokens/s  "
                f"{duration(left)} left"
            ]
        case "eval":
            best = "  best so far" if event["best"] and event["split"] == "valid" else ""
            return [f"{step}  {event['split']} {score_text(event)}{best}"]
        case "similarity":
            means = [layer["mean"] for layer in event["layers"] if layer["mean"] is not None]
            mean = f"{sum(means) / len(means):.3f}" if means else "undefined"
            return [f"{step}  expert similarity (mean debiased CKA) {mean}"]
        case "warning":
            return [f"warning: {printable(event['message'], 1000)}"]
    return []


def cost_in_words(event: dict[str, Any]) -> str:
    """How often experts are compared, and what that costs, from the fields of `RunStarted`."""
    every = event["compare_every"]
    often = "in every step" if every == 1 else f"every {every} steps"
    return f"experts are compared {often}, for {event['similarity_flops']:.1%} of a step's FLOPs"


def weight_in_words(weight: Schedule, total_steps: int) -> str:
    """The weight of the similarity loss, from the points of its schedule."""
    points = [f"{value:g} at step {round(share * total_steps):,}" for share, value in weight]
    points[0] = points[0].replace("at", "up to")
    points[-1] = points[-1].replace("at", "from") + " on"
    return f"the weight of its loss is {', '.join(points)}, linear in between"


def duration(seconds: float) -> str:
    """A time as 0:42, 12:05 or 3:07:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
