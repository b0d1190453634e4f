"""Takes finished trainings over from the results of another sweep, and says how many fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from simsmoe_cli.errors import listed, printable
from simsmoe_cli.sweep.cells import as_yaml
from simsmoe_cli.sweep.results import Record, Results, Settings, compared, defaults, settings_of

if TYPE_CHECKING:
    from simsmoe_cli.sweep.run import Sweep

MOST_NAMED = 3  # fields in which a training differs


def take_over(sweep: Sweep, others: Results) -> str:
    """Add the finished trainings that have the settings and the text of one in the sweep.

    Returns:
        A line for people: how many of them fit, and why if none does.
    """
    fit = 0
    for training in sweep.trainings:
        record = sweep.measured(others, training.recipe)
        if record is None or not _same_text(sweep.results, others, record):
            continue
        fit += 1
        if not sweep.measured(sweep.results, training.recipe):
            sweep.results.add(training.recipe, record)
    where, total = printable(others.path, 200), len(others.records)
    if fit or not total:
        return f"{where}: {fit} of its {total} trainings fit"
    return f"{where}: none of its {total} trainings fits; {_why_none(sweep, others)}"


def _same_text(ours: Results, others: Results, record: Record) -> bool:
    one, other = ours.corpora.get(record.corpus), others.corpora.get(record.corpus)
    return one is not None and other is not None and one.fingerprint == other.fingerprint


def _why_none(sweep: Sweep, others: Results) -> str:
    """In what the nearest of the other trainings differs."""
    own = [compared(settings_of(training.recipe)) for training in sweep.trainings]
    theirs = [(compared(settings), record) for settings, record in others.records]
    pairs = [
        (list(_differing(settings, ours)), record) for settings, record in theirs for ours in own
    ]
    differing, record = min(pairs, key=lambda pair: len(pair[0]))
    if differing:
        return f"the nearest differs in {listed(differing, MOST_NAMED)}"
    if not _same_text(sweep.results, others, record):
        return f"its corpus {printable(record.corpus)} is another text"
    return "they were not fine-tuned on the tasks of this sweep"


def _differing(theirs: Settings, ours: Settings) -> Iterator[str]:
    """The fields in which a finished training differs from one of the sweep, with both values."""
    usual = defaults()
    for field in sorted({*theirs, *ours}):
        values = [one.get(field, usual.get(field)) for one in (theirs, ours)]
        if values[0] != values[1]:
            yield f"{field} ({as_yaml(values[0])}, here {as_yaml(values[1])})"
