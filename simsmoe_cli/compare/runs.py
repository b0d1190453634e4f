"""Several runs side by side: the settings that differ, how well they did, and their curves.

Only the run folders are read (recipe.yaml and events.jsonl), so this needs no torch, no corpus and
no checkpoint. Scores are those the training itself wrote: of a probe's tokens for similarity and
load, of the validation and test splits for the loss. Of a Hugging Face model the report in its
folder is read, and its scores are of the text that the report was made of.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simsmoe_cli.collapse.show.local_paths import told_apart, without_paths
from simsmoe_cli.compare.foreign_report import measures_of, read_reported, settings_of
from simsmoe_cli.errors import EXIT_DATA, UserError, nearest, printable
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.run.events import read_events
from simsmoe_cli.run.folder import RunDir

# Fields of a recipe that describe it and set nothing.
NOT_SETTINGS = ("name", "description", "source")
ABSENT = "–"
REPORTED = "report"  # the status of a Hugging Face model
LARGEST, LONGEST = 1e300, 10**15  # a larger value or step in an event is damage
SUFFIXES = (".html", ".png", ".svg")


@dataclass(frozen=True)
class Measure:
    """A number by which runs are compared.

    Attributes:
        name: its key in JSON.
        label: for people.
        form: format specification.
        best: which value is the best one, `min` or `max`; None where neither is.
    """

    name: str
    label: str
    form: str
    best: Callable[[list[float]], float] | None


MEASURES = (
    Measure("test_bpc", "test BPC", ".4f", min),
    Measure("test_perplexity", "test perplexity", ",.2f", min),
    Measure("test_accuracy", "test accuracy", ".4f", max),
    Measure("valid_bpc", "best validation BPC", ".4f", min),
    Measure("valid_perplexity", "best validation perplexity", ",.2f", min),
    Measure("valid_accuracy", "best validation accuracy", ".4f", max),
    Measure("text_perplexity", "perplexity of the report's text", ",.2f", min),
    Measure("cka", "mean CKA, last probe", ".3f", min),
    Measure("cka_worst_layer", "mean CKA, worst layer", ".3f", min),
    Measure("load_cv", "load CV, mean of layers", ".3f", min),
    Measure("dead_experts", "dead experts", ".0f", min),
    Measure("tokens_per_s", "tokens/s, median", ",.0f", max),
)

# Curves over the steps of training.
CURVES = {
    "train_bpc": "training BPC",
    "valid_bpc": "validation BPC",
    "train_accuracy": "training accuracy",
    "valid_accuracy": "validation accuracy",
    "cka": "mean debiased CKA of all pairs",
    "load_cv": "load CV",
}


@dataclass
class Curve:
    """Values by step; None where undefined."""

    steps: list[int] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)

    def add(self, step: int, value: float | None) -> None:
        self.steps.append(step)
        self.values.append(value)


@dataclass(frozen=True)
class RunSummary:
    """What one run folder says.

    Attributes:
        label: the run's name, and those of folders above it where two runs have one name.
        path: of the run folder, only as much as tells it from the others.
        status: finished, stopped, failed, or "in training" if no end was written; of a Hugging
            Face model "report".
        step, total_steps: the last step logged, and how many there will be.
        settings: every field of the resolved recipe, by dotted path.
        measures: by name of `MEASURES`; None where the run has none.
        curves: by name of `CURVES`.
    """

    label: str
    path: str
    status: str
    step: int
    total_steps: int | None
    settings: dict[str, Any]
    measures: dict[str, float | None]
    curves: dict[str, Curve]


@dataclass(frozen=True)
class Comparison:
    """Runs in the order they were given, and what to know before comparing them."""

    runs: tuple[RunSummary, ...]
    differing: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """One object: differing settings by run, measures by run, curves by run."""
        return {
            "schema": 1,
            "notes": list(self.notes),
            "differing_settings": list(self.differing),
            "runs": [
                {
                    "name": run.label,
                    "path": run.path,
                    "status": run.status,
                    "step": run.step,
                    "total_steps": run.total_steps,
                    "settings": {name: run.settings.get(name) for name in self.differing},
                    "measures": run.measures,
                    "curves": {
                        name: {"steps": curve.steps, "values": curve.values}
                        for name, curve in run.curves.items()
                    },
                }
                for run in self.runs
            ],
        }


def compare(runs: Sequence[RunDir]) -> Comparison:
    """Read runs and say in what they differ.

    A run that cannot be read is left out, with a note, as long as two others can.

    Raises:
        UserError: fewer than two runs are given, one is given twice, or fewer than two can be read.
    """
    if len(runs) < 2:
        raise UserError("compare needs two or more runs", hint="Give their names or folders.")
    resolved = [run.path.resolve() for run in runs]
    for place, path in enumerate(resolved):
        if path in resolved[:place]:
            raise UserError("this run is given twice", where=printable(runs[place].path, 200))
    labels = told_apart([run.path for run in runs])
    read: list[RunSummary] = []
    faults: list[UserError] = []
    left_out: list[str] = []
    for run, label in zip(runs, labels, strict=True):
        try:
            read.append(_read(run, label))
        except UserError as error:
            faults.append(error)
            said = str(error).splitlines()[0].replace(printable(run.path, 200), label)
            left_out.append(f"left out: {said}")
    if len(read) < 2:
        raise faults[0]
    summaries = tuple(read)
    paths = list(dict.fromkeys(path for run in summaries for path in run.settings))
    differing = tuple(
        path
        for path in paths
        if path not in NOT_SETTINGS
        and any(run.settings.get(path) != summaries[0].settings.get(path) for run in summaries)
    )
    return Comparison(summaries, differing, (*left_out, *_notes(summaries, differing)))


def check_suffix(out: Path) -> None:
    """Refuse a file that is no page and no figure.

    Raises:
        UserError: its name ends otherwise.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"unknown suffix '{printable(out.suffix)}'",
            where="--out",
            hint=nearest(out.suffix, SUFFIXES),
        )


def table(comparison: Comparison) -> list[list[str]]:
    """The header and the rows of the comparison as text, one column for each run.

    The best value of a measure is marked with `*` where the runs differ in it.
    """
    runs = comparison.runs
    rows = [["", *(run.label for run in runs)]]
    rows.append(["status", *(_status(run) for run in runs)])
    for path in comparison.differing:
        rows.append([path, *(shown(run.settings.get(path)) for run in runs)])
    for measure in MEASURES:
        values = [run.measures[measure.name] for run in runs]
        known = [value for value in values if value is not None]
        if not known:
            continue
        best = measure.best(known) if measure.best and len(set(known)) > 1 else None
        rows.append(
            [
                measure.label,
                *(
                    ABSENT
                    if value is None
                    else f"{_worded(value, measure)}{'*' if value == best else ''}"
                    for value in values
                ),
            ]
        )
    return rows


def _worded(value: float, measure: Measure) -> str:
    return f"{value:{measure.form if abs(value) < 1e12 else '.3g'}}"


def shown(value: Any) -> str:
    """A setting's value as a recipe would have it."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else printable(value)


def _status(run: RunSummary) -> str:
    if run.status == REPORTED:
        return run.status
    of = "" if run.total_steps is None else f" of {run.total_steps:,}"
    return f"{run.status}, step {run.step:,}{of}"


def _read(run: RunDir, label: str) -> RunSummary:
    try:
        model = any((run.path / name).is_file() for name in ("config.json", "report.json"))
        if model and not run.recipe.is_file():
            return _of_report(run.path, label)
        for needed in (run.recipe, run.events):
            if not needed.is_file():
                what = f"not a run folder: it has no {needed.name}"
                raise UserError(what, where=printable(run.path, 200), code=EXIT_DATA)
        return _summary(run, label, _recipe(run))
    except OSError as error:
        where = printable(error.filename or run.path, 200)
        what = f"cannot be read: {error.strerror}"
        raise UserError(what, where=where, code=EXIT_DATA) from None


def _recipe(run: RunDir) -> Recipe:
    """The recipe of a run; what is wrong with it is damage, not usage."""
    try:
        return load_recipe(str(run.recipe))
    except UserError as error:
        first, *problems = str(error).splitlines()
        what = f"{first}: {problems[0].strip()}" if problems else first
        raise UserError(what, code=EXIT_DATA) from None


def _summary(run: RunDir, label: str, recipe: Recipe) -> RunSummary:
    curves = {name: Curve() for name in CURVES}
    measures: dict[str, float | None] = {measure.name: None for measure in MEASURES}
    speeds: list[float] = []
    status, step, total_steps = "in training", 0, None
    try:
        for event in read_events(run.events):
            step = event["step"]
            if event["kind"] == "run_started":
                status, total_steps = "in training", event.get("total_steps")
            elif event["kind"] == "train":
                curves["train_bpc"].add(step, event.get("bpc"))
                curves["train_accuracy"].add(step, event.get("accuracy"))
                if (speed := event.get("tokens_per_s")) is not None:
                    speeds.append(speed)
            elif event["kind"] == "eval" and event.get("split") == "valid":
                curves["valid_bpc"].add(step, event.get("bpc"))
                curves["valid_accuracy"].add(step, event.get("accuracy"))
                scores = (
                    ("bpc", event.get("bpc"), min),
                    ("perplexity", event.get("perplexity"), min),
                    ("accuracy", event.get("accuracy"), max),
                )
                for name, score, best in scores:
                    known = _known([measures[f"valid_{name}"], score])
                    measures[f"valid_{name}"] = best(known) if known else None
            elif event["kind"] == "similarity":
                means = _known([layer.get("mean") for layer in event.get("layers", [])])
                measures["cka"] = _mean(means)
                measures["cka_worst_layer"] = max(means, default=None)
                curves["cka"].add(step, measures["cka"])
            elif event["kind"] == "router":
                layers = event.get("layers", [])
                measures["load_cv"] = _mean(_known([layer.get("load_cv") for layer in layers]))
                dead = [float(len(layer.get("dead", []))) for layer in layers]
                measures["dead_experts"] = sum(dead) if dead else None
                curves["load_cv"].add(step, measures["load_cv"])
            elif event["kind"] == "run_finished":
                status = event.get("status", "unknown")
                measures["test_bpc"] = event.get("test_bpc")
                measures["test_accuracy"] = event.get("test_accuracy")
                loss = event.get("test_loss_nats")
                measures["test_perplexity"] = None if loss is None else math.exp(min(loss, 700))
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror}", where=str(run.events), code=EXIT_DATA
        ) from None
    measures["tokens_per_s"] = statistics.median(speeds) if speeds else None
    better = ("test_bpc", "valid_bpc", "test_accuracy", "valid_accuracy")
    if any(measures[name] is not None for name in better):
        measures["test_perplexity"] = measures["valid_perplexity"] = None
    settings = without_paths(_flat(recipe.model_dump(exclude=recipe.idle_sections)))
    return RunSummary(
        label,
        label,
        status,
        step,
        total_steps,
        settings,
        measures,
        curves,
    )


def _of_report(folder: Path, label: str) -> RunSummary:
    """A Hugging Face model, from the report of its folder."""
    found = read_reported(folder)
    return RunSummary(
        label,
        label,
        REPORTED,
        0,
        None,
        settings_of(found),
        {**{measure.name: None for measure in MEASURES}, **measures_of(found)},
        {name: Curve() for name in CURVES},
    )


def _notes(runs: Sequence[RunSummary], differing: Sequence[str]) -> list[str]:
    notes = []
    if {"data.corpus", "data.tokenizer"} & set(differing):
        notes.append(
            "the runs have different corpora or tokenizers, so their losses cannot be compared"
        )
    if "finetune.task" in differing:
        notes.append("the runs have different tasks, so their accuracies cannot be compared")
    reports = [run for run in runs if run.status == REPORTED]
    if len({run.settings["report.text"] for run in reports}) > 1:
        notes.append("the reports are of different texts, so their perplexities cannot be compared")
    if reports and len({run.settings.get("vocab_size") for run in reports}) > 1:
        notes.append(
            "the models have different tokenizers, so their perplexities cannot be compared"
        )
    if reports and len(reports) < len(runs):
        notes.append("a run was measured on its probe's tokens, a model on its report's text")
    if reports:
        return notes
    if len({run.step for run in runs}) > 1:
        notes.append("the runs are of different lengths: compare the curves step by step")
    if all(run.settings.get("train.seed") == runs[0].settings.get("train.seed") for run in runs):
        notes.append(
            "one seed each: other seeds alone make differences, so small ones may mean nothing"
        )
    return notes


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        path = f"{prefix}{name}"
        flat |= _flat(item, f"{path}.") if isinstance(item, dict) else {path: item}
    return flat
