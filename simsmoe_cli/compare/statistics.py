"""Compares several runs: the settings that differ, runs that differ in their seed alone, and notes
on whether scores are comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simsmoe_cli.compare.groups import Group, by_seed
from simsmoe_cli.compare.measures import Measure
from simsmoe_cli.compare.read import RunSummary, read_run
from simsmoe_cli.errors import UserError, printable
from simsmoe_cli.run.changes import NOT_SETTINGS
from simsmoe_cli.run.find import told_apart
from simsmoe_cli.run.folder import RunDir

SAME_AMOUNT = 1.01  # of the smaller amount of text
SPLITS = {"test": "test", "valid": "validation"}


@dataclass(frozen=True)
class Comparison:
    """Runs in the given order, with notes on whether they are comparable.

    Attributes:
        runs: at least two.
        differing: settings that are not the same in all runs, by dotted path.
        notes: sentences without a full stop.
        groups: of runs that differ in their seed alone; the first is the baseline.
    """

    runs: tuple[RunSummary, ...]
    differing: tuple[str, ...]
    notes: tuple[str, ...]
    groups: tuple[Group, ...]

    @property
    def seeded(self) -> bool:
        """Whether any setting has several seeds."""
        return len(self.groups) < len(self.runs)

    def has_best(self, measure: Measure) -> bool:
        """Whether one value can be called the best: all runs were trained on equally many tokens,
        and a score was measured on as much text in all of them."""
        of_as_much = measure.split is None or not _amounts(self.runs, measure.split)
        return len(_budgets(self.runs)) == 1 and of_as_much

    def to_json(self) -> dict[str, Any]:
        """One object: differing settings by run, measures by run, curves by run."""
        return {
            "schema": 1,
            "notes": list(self.notes),
            "differing_settings": list(self.differing),
            "groups": [group.to_json(self.groups[0]) for group in self.groups],
            "runs": [
                {
                    "name": run.label,
                    "path": run.label,
                    "status": run.status,
                    "step": run.step,
                    "total_steps": run.total_steps,
                    "settings": {name: run.settings.get(name) for name in self.differing},
                    "changes": [
                        {"setting": path, "step": step, "before": before, "after": after}
                        for path, found in run.changes.items()
                        for step, before, after in found
                    ],
                    "measures": run.measures,
                    "scored": run.scored,
                    "curves": {
                        name: {"steps": curve.steps, "values": curve.values}
                        for name, curve in run.curves.items()
                    },
                }
                for run in self.runs
            ],
        }


def compare(runs: Sequence[RunDir]) -> Comparison:
    """Read runs and find their differences.

    A run that cannot be read is left out, with a note, as long as two others can.

    Raises:
        UserError: fewer than two runs are given, one is given twice, or fewer than two can be read.
    """
    if len(runs) < 2:
        raise UserError("compare needs two or more runs", hint="Give their names or folders.")
    resolved = [run.path.resolve() for run in runs]
    for index, path in enumerate(resolved):
        if path in resolved[:index]:
            raise UserError("this run is given twice", where=printable(runs[index].path, 200))
    read: list[RunSummary] = []
    faults: list[UserError] = []
    left_out: list[str] = []
    for run, label in zip(runs, told_apart(resolved), strict=True):
        try:
            read.append(read_run(run, label))
        except UserError as error:
            faults.append(error)
            said = str(error).splitlines()[0].replace(printable(run.path, 200), label)
            left_out.append(f"left out: {said}")
    if len(read) < 2:
        raise faults[0]
    paths = dict.fromkeys(path for run in read for path in run.settings)
    differing = tuple(
        path
        for path in paths
        if path not in NOT_SETTINGS
        and any(run.history(path) != read[0].history(path) for run in read)
    )
    notes = (*left_out, *_notes(read, differing))
    return Comparison(tuple(read), differing, notes, tuple(by_seed(read)))


def _budgets(runs: Sequence[RunSummary]) -> list[int | None]:
    """The different numbers of tokens that runs were trained on."""
    counts = {run.step if run.tokens is None else run.tokens for run in runs if not run.reported}
    known: list[int | None] = [*sorted(counts)]
    return known or [None]


def _amounts(runs: Sequence[RunSummary], split: str) -> list[int]:
    """How many texts or tokens of a split the runs were scored on, if the numbers differ.

    A hundredth less is no difference: blocks of another length leave out another end.
    """
    found = sorted({run.scored[split] for run in runs if split in run.scored})
    return found if found and found[-1] > SAME_AMOUNT * found[0] else []


def _notes(runs: Sequence[RunSummary], differing: Sequence[str]) -> list[str]:
    notes = []
    if {"data.corpus", "data.tokenizer"} & set(differing):
        notes.append(
            "the runs have different corpora or tokenizers, so their losses cannot be compared"
        )
    if "finetune.task" in differing:
        notes.append("the runs have different tasks, so their accuracies cannot be compared")
    reports = [run for run in runs if run.reported]
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
    budgets = _budgets(runs)
    if len(budgets) > 1:
        counts = " and ".join("unknown" if n is None else f"{n:,}" for n in budgets)
        notes.append(
            f"the runs were trained on different numbers of tokens ({counts}), so none is called "
            "the best: compare the curves step by step"
        )
    if not {"data.corpus", "data.tokenizer", "finetune.task"} & set(differing):
        for split, words in SPLITS.items():
            if amounts := _amounts(runs, split):
                unit = "texts" if runs[0].settings.get("finetune.task") else "tokens"
                counts = " and ".join(f"{count:,}" for count in amounts)
                notes.append(
                    f"{words} scores are of different amounts of text ({counts} {unit}), so none "
                    "is called the best"
                )
    seeds = {run.settings.get("train.seed") for run in runs}  # of an attached run not known
    if len(seeds) == 1 and None not in seeds:
        notes.append(
            "each run has the same seed: another seed alone makes a difference, so a small one may "
            "mean nothing"
        )
    return notes
