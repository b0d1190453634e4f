"""The table of a sweep, from its results alone: means over seeds, and differences to the baseline.

Nothing here imports torch, so that a sweep is watched while it trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from simsmoe_cli.compare.seeds import (
    Difference,
    Mean,
    mean_over_seeds,
    paired_difference,
)
from simsmoe_cli.errors import UserError
from simsmoe_cli.sweep.cells import (
    Cell,
    baseline_of,
    cells_of,
    is_baseline,
    labelled,
    recipe_of,
)
from simsmoe_cli.sweep.definition import Definition
from simsmoe_cli.sweep.results import ACCURACY, Record, Results, Settings, compared, settings_of


@dataclass(frozen=True)
class Score:
    """A score of the table.

    Attributes:
        name: in the records.
        label: for people.
        form: format specification.
    """

    name: str
    label: str
    form: str


BPC = Score("test_bpc", "test BPC", ".4f")
LOSS = Score("test_loss_nats", "test loss, nats", ".4f")  # where tokens are no characters
CKA = Score("cka", "CKA", ".3f")
CKA_SHARED = Score("cka_shared", "CKA, shared tokens", ".3f")
STEPS = "train.steps"


@dataclass
class Row:
    """A cell with what is known of it.

    Attributes:
        cell: its settings.
        labels: its settings as text, by field.
        records: by seed, of those that have finished.
        means: by score.
        differences: to the baseline, by score; empty for a baseline.
        baseline: the cell that it is compared with; None for a baseline, and where there is none.
        is_baseline: whether others are compared with it.
    """

    cell: Cell
    labels: dict[str, str]
    records: dict[int, Record] = field(default_factory=dict)
    means: dict[str, Mean] = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)
    baseline: Cell | None = None
    is_baseline: bool = False

    @property
    def name(self) -> str:
        return name_of(self.labels) or "base"

    def cost(self, name: str) -> float | None:
        """The mean over finished trainings of a field of `Cost`; None if it is not known."""
        values = [getattr(record.cost, name) for record in self.records.values()]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Table:
    """All cells of a sweep.

    Attributes:
        definition: of the sweep.
        rows: in the order of the cells.
        scores: that any cell has.
        finished, wanted: trainings of all cells; one that two cells share counts twice.
        corpora: names and training tokens of the texts, as words.
    """

    definition: Definition
    rows: list[Row]
    scores: list[Score]
    finished: int
    wanted: int
    corpora: str

    @property
    def main(self) -> Score:
        """The score that is compared first."""
        return self.scores[0] if self.scores else BPC


def name_of(labels: Mapping[str, str]) -> str:
    """Settings of a cell in a few words."""
    parts = [
        f"{name.rpartition('.')[2]} {text}" if text[0].isdigit() else text
        for name, text in labels.items()
        if text
    ]
    return " ".join(parts)


def make_table(definition: Definition, results: Results) -> Table:
    """Sort the records of a sweep into its cells.

    Raises:
        UserError: the definition is not valid.
    """
    found = cells_of(definition)
    rows = [Row(cell, labels) for cell, labels in labelled(found)]
    by_key = {row.cell.key: row for row in rows}
    known = [(compared(settings), record) for settings, record in results.records]
    for row in sorted(rows, key=lambda row: row.cell.same_flops):
        row.baseline = baseline_of(definition, row.cell, found)
        row.is_baseline = is_baseline(definition, row.cell)
        for seed in row.cell.seeds:
            wanted = compared(settings_of(recipe_of(definition, row.cell, seed)))
            if row.cell.same_flops:
                record = _of_same_flops(known, wanted, by_key[_key(row.baseline)])
            else:
                record = next((one for settings, one in known if settings == wanted), None)
            if record is not None:
                row.records[seed] = record
    scores = _scores(rows)
    for row in rows:
        for score in scores:
            values = _values(row, score.name)
            if values:
                row.means[score.name] = mean_over_seeds(list(values.values()))
    for row in rows:
        if row.baseline is None:
            continue
        base = by_key[row.baseline.key]
        for score in scores:
            difference = paired_difference(_values(row, score.name), _values(base, score.name))
            if difference is not None:
                row.differences[score.name] = difference
    texts = ", ".join(
        f"{name} ({text.train_tokens:,} training {text.unit}s)"
        for name, text in results.corpora.items()
    )
    finished = sum(len(row.records) for row in rows)
    expected = sum(len(row.cell.seeds) for row in rows)
    return Table(definition, rows, scores, finished, expected, texts)


def _key(baseline: Cell | None) -> str:
    if baseline is None:
        raise UserError("only a cell with a baseline can take its FLOPs", where="budget")
    return baseline.key


def _of_same_flops(
    known: Sequence[tuple[Settings, Record]], wanted: Settings, baseline: Row
) -> Record | None:
    """The record with these settings but for its steps, which takes the FLOPs of the baseline."""
    budget = baseline.cost("flops")
    if budget is None:
        return None
    return next(
        (
            record
            for settings, record in known
            if settings | {STEPS: 0} == wanted | {STEPS: 0}
            and abs(record.cost.flops - budget) <= record.cost.flops / record.cost.steps
        ),
        None,
    )


def _values(row: Row, name: str) -> dict[int, float]:
    return {
        seed: value
        for seed, record in row.records.items()
        if (value := record.scores.get(name)) is not None
    }


def _scores(rows: Sequence[Row]) -> list[Score]:
    """The scores to show: BPC or the loss, similarity, then accuracies."""
    names = {
        name
        for row in rows
        for record in row.records.values()
        for name, value in record.scores.items()
        if value is not None
    }
    accuracies = [
        Score(name, f"accuracy, {name.removeprefix(ACCURACY)}", ".4f")
        for name in sorted(names)
        if name.startswith(ACCURACY)
    ]
    main = BPC if BPC.name in names else LOSS
    return [*(score for score in (main, CKA, CKA_SHARED) if score.name in names), *accuracies]


def table_of(results: Results) -> Table:
    """The table of a results file that names its sweep.

    Raises:
        UserError: it names none.
    """
    return make_table(results.sweep, results)
