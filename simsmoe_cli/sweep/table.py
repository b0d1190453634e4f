"""The table of a sweep, from its results alone: means over seeds, and differences to the baseline.

Nothing here imports torch, so that a sweep is watched while it trains.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from simsmoe_cli.compare.seeds import (
    Difference,
    Mean,
    mean_over_seeds,
    paired_difference,
)
from simsmoe_cli.errors import UserError
from simsmoe_cli.sweep.definition import (
    BUDGET,
    Cell,
    Definition,
    baseline_of,
    cells_of,
    labelled,
    recipe_of,
)
from simsmoe_cli.sweep.results import Record, Results, Settings, compared, settings_of

SHOWN = 0.01  # the difference whose number of seeds is stated
ABSENT = "–"
NOT_SHOWN = "°"  # after a difference whose interval holds zero


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
CKA = Score("cka", "CKA", ".3f")
CKA_SHARED = Score("cka_shared", "CKA, shared tokens", ".3f")
ACCURACY = "accuracy_"
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
        baseline: the cell that it is compared with; None for a baseline.
    """

    cell: Cell
    labels: dict[str, str]
    records: dict[int, Record] = field(default_factory=dict)
    means: dict[str, Mean] = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)
    baseline: Cell | None = None

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
    """The scores to show: BPC or accuracies, then similarity."""
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
    return [*(score for score in (BPC, CKA, CKA_SHARED) if score.name in names), *accuracies]


# As text


def columns(table: Table) -> list[str]:
    """The names of the columns of `text_rows`."""
    fields = list(table.rows[0].labels)
    names = [name.rpartition(".")[2] for name in fields]
    for score in table.scores:
        names += [score.label, f"Δ {score.label} [95%]"]
    names += ["n", f"seeds for {SHOWN:g}"]
    return [*names, "GFLOPs", "min"]


def text_rows(table: Table) -> Iterator[list[str]]:
    """The rows of the table as text."""
    for row in table.rows:
        texts = [row.labels[name] or ABSENT for name in row.labels]
        for score in table.scores:
            texts += [mean_text(row.means.get(score.name), score), difference_text(row, score)]
        texts.append(f"{len(row.records)}/{len(row.cell.seeds)}")
        texts.append(seeds_text(row, table.main))
        flops, seconds = row.cost("flops"), row.cost("seconds")
        texts.append(ABSENT if flops is None else f"{flops / 1e9:,.0f}")
        texts.append(ABSENT if seconds is None else f"{seconds / 60:.1f}")
        yield texts


def published_columns(table: Table) -> list[str]:
    """The names of the columns of `published_rows`."""
    fields = [name.rpartition(".")[2] for name in table.rows[0].labels if name != BUDGET]
    return ["published for", *fields, "published", "Δ published", "ours", "Δ ours [95%]"]


def published_rows(table: Table) -> Iterator[list[str]]:
    """Each published number and its difference to the published baseline, beside ours."""
    published = table.definition.published
    for part in () if published is None else published.values:
        of_settings = [(settings, number) for settings, number in part.values()]
        for settings, number in of_settings:
            row = next((row for row in table.rows if _is_published(row, settings)), None)
            if row is None:
                continue
            base = _published_baseline(table, part.score, part.of, row.baseline)
            labels = [text or ABSENT for name, text in row.labels.items() if name != BUDGET]
            form = BPC.form if part.score == BPC.name else ".3f"
            score = Score(part.score, part.score, form)
            yield [
                part.of,
                *labels,
                f"{number:{'.2f' if part.score == BPC.name else '.3f'}}",
                "baseline" if base is None else f"{number - base:+.3g}",
                mean_text(row.means.get(part.score), score),
                difference_text(row, score),
            ]


def _is_published(row: Row, settings: dict[str, Any]) -> bool:
    return not row.cell.same_flops and row.cell.settings == settings


def _published_baseline(table: Table, score: str, of: str, baseline: Cell | None) -> float | None:
    """The published number of a baseline; None where there is none."""
    assert table.definition.published is not None
    if baseline is None:
        return None
    return next(
        (
            number
            for part in table.definition.published.values
            if (part.score, part.of) == (score, of)
            for settings, number in part.values()
            if settings == baseline.settings
        ),
        None,
    )


def mean_text(mean: Mean | None, score: Score) -> str:
    """Mean and standard error."""
    if mean is None:
        return ABSENT
    error = "" if mean.standard_error is None else f" ± {mean.standard_error:{score.form}}"
    return f"{mean.mean:{score.form}}{error}"


def difference_text(row: Row, score: Score) -> str:
    """The difference to the baseline with its interval; marked where none is shown."""
    if row.baseline is None:
        return "baseline"
    found = row.differences.get(score.name)
    if found is None:
        return ABSENT
    if found.t is None:
        return f"{found.mean:+{score.form}}"
    interval = f"[{found.t.low:+{score.form}}, {found.t.high:+{score.form}}]"
    return f"{found.mean:+{score.form}} {interval}{'' if found.shown else NOT_SHOWN}"


def seeds_text(row: Row, score: Score) -> str:
    """How many seeds would show a difference of `SHOWN`."""
    found = row.differences.get(score.name)
    if found is None or found.deviation is None:
        return ABSENT
    needed = found.seeds_to_show(SHOWN)
    return ABSENT if needed is None else f"{needed:,}"


def as_csv(table: Table) -> str:
    """One line for each cell and score, with every number in full."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    fields = list(table.rows[0].labels)
    numbers = ["n", "mean", "standard_error", "difference", "pairs"]
    ends = ["t_low", "t_high", "bootstrap_low", "bootstrap_high", "shown", "seeds_to_show_0.01"]
    writer.writerow(["cell", *fields, "score", *numbers, *ends, "flops", "seconds"])
    for row in table.rows:
        for score in table.scores:
            mean, found = row.means.get(score.name), row.differences.get(score.name)
            if mean is None:
                continue
            line: list[object] = [row.cell.name, *row.labels.values(), score.name]
            line += [mean.n, mean.mean, mean.standard_error]
            if found is None:
                line += [None] * 8
            else:
                t, drawn = found.t, found.bootstrap
                line += [found.mean, found.n]
                line += [t and t.low, t and t.high, drawn and drawn.low, drawn and drawn.high]
                line += [found.shown, found.seeds_to_show(SHOWN)]
            writer.writerow([*line, row.cost("flops"), row.cost("seconds")])
    return buffer.getvalue()


def table_of(results: Results) -> Table:
    """The table of a results file that names its sweep.

    Raises:
        UserError: it names none.
    """
    return make_table(results.sweep, results)
