"""The results of a sweep as a file and as a table, on records that were made up."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from simsmoe_cli.errors import DataError
from simsmoe_cli.sweep.cells import cells_of, recipe_of
from simsmoe_cli.sweep.definition import Definition, changed, definition_of
from simsmoe_cli.sweep.results import Cost, Curve, Record, Results, Text, settings_of
from simsmoe_cli.sweep.show import about, notes, write_results
from simsmoe_cli.sweep.table import make_table
from simsmoe_cli.sweep.table_text import as_csv, columns, published_rows, text_rows

PRESET = "similarity.preset"
DEFINITION = definition_of(
    {
        "name": "made",
        "seeds": "0-2",
        "grids": [
            {"moe.router": ["smoe", "xmoe"], PRESET: ["none", "calibrated"]},
            {"moe.router": ["smoe"], PRESET: ["calibrated"], "budget": ["flops"]},
        ],
        "baseline": {PRESET: "none"},
        "published": {
            "source": "a paper",
            "values": [
                {
                    "of": "model",
                    "cell": {"moe.router": "smoe"},
                    "fields": [PRESET],
                    "rows": [["none", 1.11], ["calibrated", 1.08]],
                }
            ],
        },
    },
    "test",
)
BPC = {
    ("smoe", "none"): [2.30, 2.35, 2.28],
    ("smoe", "calibrated"): [2.31, 2.35, 2.30],
    ("xmoe", "none"): [2.40, 2.42],
    ("xmoe", "calibrated"): [2.30, 2.325],
}


def record(name: str, bpc: float, steps: int = 100, flops_per_step: float = 1e9) -> Record:
    return Record(
        name=name,
        changes={},
        corpus="text",
        scores={"test_bpc": bpc, "cka": bpc / 10, "cka_shared": None},
        curve=Curve(steps=[50, 100], valid_bpc=[bpc + 1, bpc]),
        cost=Cost(
            steps=steps,
            tokens=steps * 10,
            flops=steps * flops_per_step,
            similarity_flops=0.0,
            seconds=60.0,
        ),
    )


def filled(path: Path, definition: Definition = DEFINITION) -> Results:
    """Results in which one training of xmoe is missing."""
    results = Results(path, definition)
    results.corpora["text"] = Text(fingerprint="f", train_tokens=1000, test_tokens=10, unit="byte")
    for cell in cells_of(definition):
        key = (cell.settings["moe.router"], cell.settings[PRESET])
        flops = 1.05e9 if key[1] == "calibrated" else 1e9
        for seed in list(cell.seeds)[: len(BPC[key])]:
            recipe = recipe_of(definition, cell, seed)
            steps = 95 if cell.same_flops else 100
            train = recipe.train.model_copy(update={"steps": steps})
            made = record(f"{cell.name}-seed{seed}", BPC[key][seed], steps, flops)
            results.add(recipe.model_copy(update={"train": train}), made)
    return results


def with_steps(definition: Definition) -> Definition:
    return definition.model_copy(update={"settings": {"train.steps": 100}})


def test_a_file_read_back_has_the_same_results(tmp_path: Path) -> None:
    results = filled(tmp_path / "results.json", with_steps(DEFINITION))
    results.write()
    again = Results.read(tmp_path / "results.json")
    assert again.definition == results.definition
    assert again.corpora == results.corpora
    assert [settings for settings, _ in again.records] == [s for s, _ in results.records]
    definition = with_steps(DEFINITION)
    assert as_csv(make_table(definition, again)) == as_csv(make_table(definition, results))
    content = (tmp_path / "results.json").read_bytes()
    again.write()
    assert (tmp_path / "results.json").read_bytes() == content
    assert len(content) < 12_000


def test_results_outlive_a_new_field_and_a_changed_name(tmp_path: Path) -> None:
    definition = with_steps(DEFINITION)
    results = filled(tmp_path / "results.json", definition)
    cell = cells_of(definition)[0]
    recipe = recipe_of(definition, cell, 1)
    assert results.find(recipe) is not None
    renamed = recipe.model_copy(update={"name": "another", "description": "other words"})
    assert results.find(renamed) is results.find(recipe)
    longer = recipe.train.model_copy(update={"steps": 101})
    assert results.find(recipe.model_copy(update={"train": longer})) is None
    # A record written before a field existed does not have it: it counts as having its default.
    settings, of_before = results.records[1]
    assert "train.weight_decay" not in settings
    results.records[1] = (settings | {"train.weight_decay": 0.0}, of_before)
    assert results.find(recipe) is of_before
    results.records[1] = (settings | {"train.weight_decay": 0.1}, of_before)
    assert results.find(recipe) is None


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 99}', '{"schema": 1, "records": 3}'])
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(DataError, match="cannot be read"):
        Results.read(path)
    assert path.read_text() == content


def test_means_and_paired_differences(tmp_path: Path) -> None:
    definition = with_steps(DEFINITION)
    table = make_table(definition, filled(tmp_path / "r.json", definition))
    assert (table.finished, table.wanted) == (13, 15)
    rows = {row.cell.name: row for row in table.rows}
    mean = rows["smoe-none"].means["test_bpc"]
    assert (mean.mean, mean.n) == (pytest.approx(np.mean(BPC["smoe", "none"])), 3)
    assert mean.standard_error == pytest.approx(stats.sem(BPC["smoe", "none"]))
    same = rows["smoe-calibrated"].differences["test_bpc"]
    drawn = np.array(BPC["smoe", "calibrated"]) - np.array(BPC["smoe", "none"])
    low, high = stats.ttest_1samp(drawn, 0).confidence_interval()
    assert same.t is not None
    assert (same.t.low, same.t.high) == pytest.approx((low, high))
    assert not same.shown
    better = rows["xmoe-calibrated"].differences["test_bpc"]
    assert (better.n, better.shown) == (2, True)
    assert rows["smoe-none"].differences == {}
    flops = rows["smoe-calibrated-same-flops"]
    assert [one.cost.steps for one in flops.records.values()] == [95, 95, 95]
    assert flops.differences["test_bpc"].n == 3


def test_the_table_as_text_csv_and_page(tmp_path: Path) -> None:
    definition = with_steps(DEFINITION)
    table = make_table(definition, filled(tmp_path / "r.json", definition))
    shown = dict(zip(columns(table), next(iter(text_rows(table))), strict=True))
    assert (shown["router"], shown["preset"], shown["n"]) == ("smoe", "none", "3/3")
    assert shown["test BPC"] == "2.3100 ± 0.0208"
    assert "CKA, shared tokens" not in shown
    texts = [dict(zip(columns(table), row, strict=True)) for row in text_rows(table)]
    assert texts[1]["Δ test BPC [95%]"].startswith("+0.0100 [")
    assert texts[1]["Δ test BPC [95%]"].endswith("°")
    assert not texts[3]["Δ test BPC [95%]"].endswith("°")
    beside = list(published_rows(table))
    assert [row[3:5] for row in beside] == [["1.11", "baseline"], ["1.08", "-0.03"]]
    lines = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert len(lines) == 10
    assert float(lines[2]["difference"]) == pytest.approx(0.01)
    write_results(table, tmp_path, {"a-seed0": "out of <memory>"})
    page = (tmp_path / "results.html").read_text()
    assert "out of &lt;memory&gt;" in page
    assert page.count("<svg") >= 4
    assert "no difference shown" in page
    assert "as if pairs were compared in every step" not in page
    assert (tmp_path / "results.csv").read_text() == as_csv(table)


def test_the_head_says_what_was_changed_and_how_many_seeds_there_are(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    assert not any("Changed" in line for line in about(make_table(DEFINITION, results)))
    definition = changed(DEFINITION, {"train.steps": 50, "model.pattern": "sg"}, "0-1")
    definition = definition.model_copy(update={"changes": {**definition.changes, "text": "my.txt"}})
    first, *rest = about(make_table(definition, results))
    assert first.endswith("; 2 seeds of each cell.")
    line = next(line for line in rest if line.startswith("Changed here"))
    assert "train.steps=50, model.pattern=sg, seeds 0-1, text my.txt;" in line


def test_flops_of_the_papers_presets_are_called_a_bound(tmp_path: Path) -> None:
    preset = {"settings": {**DEFINITION.settings, PRESET: "published"}, "grids": [{}]}
    definition = DEFINITION.model_copy(update={**preset, "baseline": {}})
    table = make_table(definition, Results(tmp_path / "results.json"))
    assert any(
        "(published: at most, as if pairs were compared in every step)" in line
        for line in notes(table)
    )


def test_without_a_baseline_there_are_no_differences(tmp_path: Path) -> None:
    definition = with_steps(DEFINITION).model_copy(
        update={"baseline": {}, "grids": DEFINITION.grids[:1]}
    )
    made = make_table(definition, filled(tmp_path / "results.json", definition))
    assert not any("Δ" in name or "seeds for" in name for name in columns(made))
    assert all(len(row) == len(columns(made)) for row in text_rows(made))
    assert not any("baseline" in row for row in text_rows(made))


def test_a_cell_that_no_baseline_fits_is_not_called_one(tmp_path: Path) -> None:
    grids = [
        {"moe.router": ["smoe"], PRESET: ["none"]},
        {"moe.router": ["xmoe"], PRESET: ["calibrated"]},
    ]
    definition = with_steps(DEFINITION).model_copy(update={"grids": grids})
    made = make_table(definition, filled(tmp_path / "results.json", definition))
    smoe, xmoe = text_rows(made)
    assert smoe.count("baseline") == 2
    assert "baseline" not in xmoe


def test_a_record_has_a_line_of_its_own(tmp_path: Path) -> None:
    results = filled(tmp_path / "results.json")
    results.write()
    lines = (tmp_path / "results.json").read_text().splitlines()
    assert sum(line.startswith('{"name"') for line in lines) == len(results.records)
    assert json.loads("\n".join(lines))["schema"] == 1
    assert settings_of(recipe_of(DEFINITION, cells_of(DEFINITION)[0], 1))["train.seed"] == 1
