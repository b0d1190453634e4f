"""Reads the runs to compare: a run from its folder, a Hugging Face model from its report.

Of a run only recipe.yaml and events.jsonl are read (events.jsonl alone if `attach` wrote it), so
this needs no torch, no corpus and no checkpoint. Its numbers were written during training:
similarity and load on the probe's tokens, and the validation and test loss. The numbers of a
Hugging Face model are for the text of its report.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simsmoe_cli.collapse.findings import mean_of
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.local_paths import without_paths
from simsmoe_cli.compare.measures import CURVES, MEASURES
from simsmoe_cli.errors import DataError, UserError, printable
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.attached import attached_run
from simsmoe_cli.run.event_log import read_events
from simsmoe_cli.run.events import Event, RunStarted
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.score import perplexity

REPORTED = "report"  # the status of a Hugging Face model
REPORT = "report.json"


@dataclass
class Curve:
    """Values by step; None where undefined."""

    steps: list[int] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)

    def add(self, step: int, value: float | None) -> None:
        self.steps.append(step)
        self.values.append(value)


@dataclass
class RunSummary:
    """A summary of one run, or of a Hugging Face model.

    Attributes:
        label: the run's name, with as many parent folders as are needed to distinguish it.
        status: finished, stopped, failed, or "in training" if no end was written; of a Hugging
            Face model "report".
        step, total_steps: the last step logged, and how many there will be.
        settings: every field of the resolved recipe, by dotted path.
        changes: of settings that a resumed run changed, by dotted path: the step, and the values
            before and after it.
        measures: by name of `MEASURES`; None where the run has none.
        curves: by name of `CURVES`.
        scored: by split, how much of it the latest score was measured on: texts of a task, else
            tokens.
    """

    label: str
    status: str = "in training"
    step: int = 0
    total_steps: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, list[tuple[int, Any, Any]]] = field(default_factory=dict)
    measures: dict[str, float | None] = field(
        default_factory=lambda: {measure.name: None for measure in MEASURES}
    )
    curves: dict[str, Curve] = field(default_factory=lambda: {name: Curve() for name in CURVES})
    scored: dict[str, int] = field(default_factory=dict)

    def history(self, path: str) -> tuple[Any, list[tuple[int, Any, Any]]]:
        """A setting, and its changes."""
        return self.settings.get(path), self.changes.get(path, [])

    @property
    def tokens(self) -> int | None:
        """Tokens that it was trained on, at most; None where the recipe does not say."""
        batch, block = (self.settings.get(f"train.{name}") for name in ("batch", "block"))
        if not isinstance(batch, int) or not isinstance(block, int):
            return None
        return self.step * batch * block

    @property
    def reported(self) -> bool:
        """Whether it is a Hugging Face model."""
        return self.status == REPORTED


def read_run(run: RunDir, label: str) -> RunSummary:
    """Read a run folder, or the report of a Hugging Face model's folder.

    Raises:
        UserError: it is neither, or cannot be read.
    """
    try:
        model = any((run.path / name).is_file() for name in ("config.json", REPORT))
        if model and not run.recipe.is_file():
            return _of_report(run.path, label)
        started = attached_run(run)
        for needed in (run.events,) if started else (run.recipe, run.events):
            if not needed.is_file():
                what = f"not a run folder: it has no {needed.name}"
                raise DataError(what, where=printable(run.path, 200))
        return _of_run(run, label, started)
    except OSError as error:
        where = printable(error.filename or run.path, 200)
        what = f"cannot be read: {error.strerror}"
        raise DataError(what, where=where) from None


def _of_run(run: RunDir, label: str, started: RunStarted | None) -> RunSummary:
    """A run; `started` is the first event of one that `attach` wrote."""
    summary = RunSummary(label)
    if started is not None:
        summary.settings = {"model": started["model"], **_by_path(started.get("recipe", {}))}
    else:
        recipe = _recipe(run)
        settings = _by_path(recipe.model_dump(exclude=recipe.idle_sections))
        summary.settings = without_paths(settings)
    speeds: list[float] = []
    for event in read_events(run.events):
        _add(event, summary)
        if event["kind"] == "train" and (speed := event.get("tokens_per_s")) is not None:
            speeds.append(speed)
    measures = summary.measures
    measures["tokens_per_s"] = statistics.median(speeds) if speeds else None
    losses = [value for value in summary.curves["train_loss"].values if value is not None]
    if started is not None and losses:  # the only score it has
        measures["train_loss"] = statistics.fmean(losses[-max(1, len(losses) // 10) :])
    better = ("test_bpc", "valid_bpc", "test_accuracy", "valid_accuracy")
    if any(measures[name] is not None for name in better):
        measures["test_perplexity"] = measures["valid_perplexity"] = None
    return summary


def _recipe(run: RunDir) -> Recipe:
    """The recipe of a run; an error in it counts as damaged data, not as wrong usage."""
    try:
        return load_recipe(str(run.recipe))
    except UserError as error:
        first, *problems = str(error).splitlines()
        what = f"{first}: {problems[0].strip()}" if problems else first
        raise DataError(what) from None


def _add(event: Event, summary: RunSummary) -> None:
    """Add the contents of an event."""
    step, measures, curves = event["step"], summary.measures, summary.curves
    summary.step = step
    if event["kind"] == "eval" and (read := event.get("examples", event.get("tokens"))):
        split = event.get("split", "")
        summary.scored["test" if split == "dev" else split] = read  # without published test labels
    if event["kind"] == "run_started":
        summary.status, summary.total_steps = "in training", event.get("total_steps")
        for change in event.get("changes", []):
            values = (step, change.get("before"), change.get("after"))
            summary.changes.setdefault(change["setting"], []).append(values)
    elif event["kind"] == "train":
        summary.status = "in training"  # also after an earlier end, as of an attached run
        curves["train_bpc"].add(step, event.get("bpc"))
        curves["train_accuracy"].add(step, event.get("accuracy"))
        if event.get("bpc") is None and event.get("accuracy") is None:
            curves["train_loss"].add(step, event.get("loss_nats"))
    elif event["kind"] == "eval" and event.get("split") == "valid":
        curves["valid_bpc"].add(step, event.get("bpc"))
        curves["valid_accuracy"].add(step, event.get("accuracy"))
        for name, score, best in (
            ("valid_bpc", event.get("bpc"), min),
            ("valid_perplexity", event.get("perplexity"), min),
            ("valid_accuracy", event.get("accuracy"), max),
        ):
            scores = [value for value in (measures[name], score) if value is not None]
            measures[name] = best(scores) if scores else None
    elif event["kind"] == "similarity":
        means = [layer.get("mean") for layer in event.get("layers", [])]
        measures["cka"] = mean_of(means)
        known = [mean for mean in means if mean is not None]
        measures["cka_worst_layer"] = max(known, default=None)
        curves["cka"].add(step, measures["cka"])
    elif event["kind"] == "router":
        layers = event.get("layers", [])
        measures["load_cv"] = mean_of(layer.get("load_cv") for layer in layers)
        dead = [layer.get("dead") for layer in layers]
        if dead and None not in dead:  # None: too few slots to judge; the last judgement counts
            measures["dead_experts"] = float(sum(len(experts or ()) for experts in dead))
        curves["load_cv"].add(step, measures["load_cv"])
    elif event["kind"] == "run_finished":
        summary.status = event.get("status", "unknown")
        measures["test_bpc"] = event.get("test_bpc")
        measures["test_accuracy"] = event.get("test_accuracy")
        loss = event.get("test_loss_nats")
        measures["test_perplexity"] = None if loss is None else perplexity(loss)


def report_of(folder: Path) -> Path | None:
    """The report in a folder, or in its folder report; None where there is none."""
    candidates = (folder / REPORT, folder / "report" / REPORT)
    return next((path for path in candidates if path.is_file()), None)


def _of_report(folder: Path, label: str) -> RunSummary:
    """A Hugging Face model, from the report of its folder.

    Raises:
        UserError: there is no report, or one that cannot be read.
    """
    path = report_of(folder)
    if path is None:
        raise DataError(
            "this model has no report to compare",
            where=str(folder),
            hint=f"Write it: simsmoe collapse-report {folder} --text FILE.",
        )
    found = Report.read(path).main
    summary = RunSummary(label, REPORTED)
    summary.settings = _by_path(found.subject.settings) | {"report.text": found.text.corpus}
    summary.measures |= {
        "text_perplexity": found.text.perplexity,
        "cka": found.overall.cka_mean,
        "cka_worst_layer": found.highest.cka_mean.value if found.highest else None,
        "load_cv": found.load_cv,
        "dead_experts": None if found.dead is None else float(found.dead),
    }
    return summary


def _by_path(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted path."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        path = f"{prefix}{name}"
        flat |= _by_path(item, f"{path}.") if isinstance(item, dict) else {path: item}
    return flat
