"""Figures of a sweep: what tells its cells apart, and what of their intervals is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from simsmoe_cli.sweep.cells import cells_of, recipe_of
from simsmoe_cli.sweep.definition import Definition, definition_of
from simsmoe_cli.sweep.figures import figures
from simsmoe_cli.sweep.results import Cost, Curve, Layer, Record, Results, settings_of
from simsmoe_cli.sweep.table import Table, make_table

PRESET = "similarity.preset"
PRESETS, ROUTERS = ["none", "published", "calibrated"], ["smoe", "xmoe", "hash", "random"]


def sweep(grid: dict[str, list[str]], seeds: str = "0-1") -> Definition:
    about = {"name": "made", "seeds": seeds, "grids": [grid], "baseline": {PRESET: "none"}}
    return definition_of(about, "test")


def table(definition: Definition, spread: float = 0.0) -> Table:
    """Cells whose BPC differ by 0.1, and their seeds by the spread."""
    results = Results(Path("results.json"), definition)
    cost = Cost(steps=10, tokens=10, flops=1.0, similarity_flops=0.0)
    for number, cell in enumerate(cells_of(definition)):
        for seed in cell.seeds:
            bpc = 2 + number / 10 + spread * seed
            record = Record(
                name=f"{number}-{seed}",
                changes={},
                corpus="text",
                scores={"test_bpc": bpc, "cka": bpc / 10, "cka_shared": None},
                layers=[Layer(cka=0.1), Layer(cka=0.2)],
                curve=Curve(steps=[5, 10], valid_bpc=[bpc + 1, bpc]),
                cost=cost,
            )
            results.records.append((settings_of(recipe_of(definition, cell, seed)), record))
    return make_table(definition, results)


def legend(figure: Figure) -> list[str]:
    (found,) = figure.legends
    return [name for text in found.get_texts() if (name := text.get_text().strip())]


def looks(lines: list[Line2D]) -> set[tuple[object, ...]]:
    return {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}


@pytest.mark.parametrize("name", ["test_bpc-cka", "curves", "layers"])
def test_many_cells_are_told_apart_by_colour_and_mark(name: str) -> None:
    made = table(sweep({"moe.router": ROUTERS, PRESET: PRESETS}))
    figure = next(drawn.figure for drawn in figures(made) if drawn.name == name)
    assert legend(figure) == [*PRESETS, *ROUTERS]
    (axes,) = figure.axes
    points = [one.lines[0] for one in axes.containers] or axes.lines
    assert len(points) == len(looks(points)) == len(PRESETS) * len(ROUTERS)


def test_few_cells_are_named_one_by_one() -> None:
    made = table(sweep({PRESET: PRESETS}))
    drawn = next(iter(figures(made)))
    assert legend(drawn.figure) == PRESETS


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_all_points_are_seen_and_apart_however_wide_their_intervals(spread: float) -> None:
    made = table(sweep({PRESET: PRESETS}), spread)
    (axes,) = next(iter(figures(made))).figure.axes
    low, high = axes.get_ylim()
    values = [row.means["test_bpc"].mean for row in made.rows]
    assert low < min(values)
    assert max(values) < high
    # Two seeds have intervals of 13 standard errors to each side, 1.9 here; points differ by 0.1.
    assert max(values) - min(values) == pytest.approx(
        (high - low) / 3 if spread else (high - low) / 1.5
    )


def test_a_sweep_without_bpc_shows_the_loss() -> None:
    """As of words or pieces."""
    definition = sweep({PRESET: PRESETS})
    with_bpc = table(definition)
    results = Results(Path("results.json"), definition)
    for row in with_bpc.rows:
        for seed, record in row.records.items():
            scores = record.scores | {"test_bpc": None, "test_loss_nats": record.scores["test_bpc"]}
            recipe = recipe_of(definition, row.cell, seed)
            results.add(recipe, record.model_copy(update={"scores": scores}))
    made = make_table(definition, results)
    assert made.main.name == "test_loss_nats"
    names = [drawing.name for drawing in figures(made)]
    assert len(names) == len(set(names))
    assert names[:1] == ["test_loss_nats-cka"]
    assert "difference-test_loss_nats" in names


def test_cells_without_a_name_are_called_base() -> None:
    about = {"name": "made", "grids": [{}, {"moe.router": ["xmoe"]}]}
    for grids in (about["grids"][:1], about["grids"]):
        made = table(definition_of(about | {"grids": grids}, "test"))
        drawn = next(iter(figures(made)))
        assert legend(drawn.figure) == ["base", "xmoe"][: len(grids)]


def test_one_cell_of_one_seed_has_a_figure() -> None:
    made = table(sweep({PRESET: ["none"]}, "0"))
    assert [drawn.name for drawn in figures(made)] == ["test_bpc-cka", "curves", "layers"]
