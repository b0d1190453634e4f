"""What a sweep trains: cells, seeds, baselines; and the sweeps that come with simsmoe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simsmoe_cli.errors import UserError
from simsmoe_cli.recipe.load import list_sweeps
from simsmoe_cli.sweep.cells import baseline_of, cells_of, recipe_of
from simsmoe_cli.sweep.definition import Definition, changed, definition_of, read_definition

PRESET = "similarity.preset"
FINETUNE = {"task": "sst2", "recipe": "finetune-sst2"}


def made(**fields: Any) -> Definition:
    return definition_of({"name": "made", **fields}, "test")


def test_grids_are_all_combinations_and_equal_cells_are_one() -> None:
    definition = made(
        seeds="0-1",
        grids=[
            {"moe.router": ["smoe", "xmoe"], PRESET: ["none", "calibrated"]},
            {"moe.router": "smoe", PRESET: ["none"], "seeds": "0,4"},
        ],
        baseline={PRESET: "none"},
    )
    cells = cells_of(definition)
    assert [cell.name for cell in cells] == [
        "smoe-none",
        "smoe-calibrated",
        "xmoe-none",
        "xmoe-calibrated",
    ]
    assert [list(cell.seeds) for cell in cells] == [[0, 1, 4], [0, 1], [0, 1], [0, 1]]
    baselines = [baseline_of(definition, cell, cells) for cell in cells]
    assert baselines == [None, cells[0], None, cells[2]]
    recipe = recipe_of(definition, cells[3], 1)
    assert (recipe.moe.router, recipe.similarity.preset, recipe.train.seed) == (
        "xmoe",
        "calibrated",
        1,
    )


def test_settings_of_a_router_are_for_its_cells_alone() -> None:
    grids = [{"moe.router": ["smoe", "xmoe", "stablemoe"]}, {"moe.experts": [4]}]
    definition = made(settings={"xmoe.published": True}, grids=grids)
    recipes = [recipe_of(definition, cell, 0) for cell in cells_of(definition)]
    assert [recipe.xmoe.published for recipe in recipes] == [False, True, False, False]
    definition = made(settings={"xmoe.published": True}, grids=grids[1:])
    with pytest.raises(UserError, match=r"xmoe\.published: has no effect with router smoe"):
        cells_of(definition)


def test_what_a_command_line_changes_is_noted() -> None:
    definition = read_definition("table3-small")
    same = changed(definition, {"train.steps": 700}, "0-2")
    assert same.changes == {}
    once = changed(definition, {"train.steps": 50, "moe.top_k": 1}, "0-4")
    assert once.changes == {"train.steps": 50, "moe.top_k": 1, "seeds": "0-4"}
    # As of a results.json that is gone on with.
    twice = changed(once, {"train.steps": 60}, None)
    assert twice.changes == {"train.steps": 60, "moe.top_k": 1, "seeds": "0-4"}


def test_a_baseline_that_is_not_one_cell() -> None:
    grids = [{"moe.router": ["smoe", "xmoe"], PRESET: ["none"]}, {PRESET: ["calibrated"]}]
    with pytest.raises(UserError, match="2 baselines"):
        cells_of(made(grids=grids, baseline={PRESET: "none"}))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"grids": [{"moe.ruoter": ["smoe"]}]}, "Did you mean 'moe.router'"),
        ({"grids": [{"moe.router": ["smeo"]}]}, "Did you mean 'smoe'"),
        ({"grids": [{"train.seed": [0, 1]}]}, "seeds"),
        ({"grids": [{"moe.router": []}]}, "no values"),
        ({"grids": [{"train.lr": [0.001], "budget": ["time"]}]}, "steps or flops"),
        ({"grids": [{"train.lr": [0.001], "budget": [["flops"]]}]}, "steps or flops"),
        ({"settings": {"train.stepss": 4}}, "settings: unknown field"),
        ({"settings": {"recipe": "quickstart"}}, "settings: unknown field"),
        ({"baseline": {"moe.ruter": "smoe"}}, "baseline: unknown field"),
        ({"baseline": {"moe.router": "smoe"}}, "no combination of the grids has moe.router=smoe"),
        ({"finetune": [{"task": "sst2", "recipe": "finetune-sst3"}]}, "finetune-sst5"),
        (
            {"finetune": [FINETUNE | {"settings": {"finetune.epoch": 1}}]},
            "Did you mean 'finetune.epochs'",
        ),
    ],
)
def test_what_cannot_be_trained_is_one_line(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        cells_of(made(**fields))
    assert "\n" not in str(caught.value)


def test_a_file_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    for content, said in (
        ("- 1", "not a mapping"),
        ("name: [", "not valid YAML"),
        ("grid: []", "unknown key 'grid'. Did you mean 'grids'"),
        ("name: a b", "name: a name begins with a letter or digit"),
        ("grids: 3\nname: a b", "1 more problem$"),
        ("seeds: x", "expected seeds"),
        ("name: a\nname: b", "twice"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=said):
            read_definition(file)
    with pytest.raises(UserError, match="Did you mean 'table1-small'"):
        read_definition("table1-smal")
    with pytest.raises(UserError, match="Did you mean 'table1-small'"):
        read_definition(tmp_path / "table1-smal.yml")
    (tmp_path / "base.yaml").write_text("model: {width: 32}\n")
    file.write_text("recipe: base.yaml\n")
    definition = read_definition(file)
    assert definition.name == "my"
    assert recipe_of(definition, cells_of(definition)[0], 0).model.width == 32


@pytest.mark.parametrize("path", [path for _, path in list_sweeps()], ids=lambda path: path.stem)
def test_sweeps_that_come_with_simsmoe(path: Path) -> None:
    definition = read_definition(path.stem)
    assert definition.name == path.stem
    cells = cells_of(definition)
    settings = [dict(cell.settings) for cell in cells]
    if definition.published is not None:
        for part in definition.published.values:
            for published, number in part.values():
                assert published in settings
                assert 0.3 < number < 2
    if definition.name.endswith("-paper"):
        for cell in cells:
            recipe = recipe_of(definition, cell, 0)
            assert recipe.moe.init == "published"
            # The published code divides the loss by K once more.
            assert recipe.moe.balance_weight * recipe.moe.top_k == 0.01  # type: ignore[operator]
            assert getattr(recipe.of_router(recipe.moe.router), "published", True)
            assert recipe.train.precision == "fp32"
