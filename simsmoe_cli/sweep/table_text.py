"""The table of a sweep as text and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from simsmoe_cli.compare.seeds import Mean
from simsmoe_cli.sweep.cells import Cell
from simsmoe_cli.sweep.definition import BUDGET
from simsmoe_cli.sweep.table import BPC, Row, Score, Table

SHOWN = 0.01  # the difference whose number of seeds is stated
ABSENT = "–"
NOT_SHOWN = "°"  # after a difference whose interval holds zero


def columns(table: Table) -> list[str]:
    """The names of the columns of `text_rows`; differences only where there is a baseline."""
    fields = list(table.rows[0].labels)
    names = [name.rpartition(".")[2] for name in fields]
    compared = bool(table.definition.baseline)
    for score in table.scores:
        names += [score.label, *([f"Δ {score.label} [95%]"] if compared else [])]
    names += ["n", *([f"seeds for {SHOWN:g}"] if compared else [])]
    return [*names, "GFLOPs", "min"]


def text_rows(table: Table) -> Iterator[list[str]]:
    """The rows of the table as text."""
    for row in table.rows:
        texts = [row.labels[name] or ABSENT for name in row.labels]
        for score in table.scores:
            texts.append(mean_text(row.means.get(score.name), score))
            if table.definition.baseline:
                texts.append(difference_text(row, score))
        texts.append(f"{len(row.records)}/{len(row.cell.seeds)}")
        if table.definition.baseline:
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
    if row.is_baseline:
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
