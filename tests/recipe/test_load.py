"""Recipes as files and with --set: values, overrides, and writing them back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simsmoe_cli.errors import UserError
from simsmoe_cli.recipe.load import dump_recipe, load_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.recipe.similarity import PRESETS
from tests.recipe.given import loaded, problem


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.lr=1e-3", "train.lr", 0.001),
        ("train.lr=1E+0", "train.lr", 1.0),
        ("train.lr=.5", "train.lr", 0.5),
        ("train.lr=1", "train.lr", 1.0),
        ("train.steps=50_000", "train.steps", 50_000),
        ("train.seed=010", "train.seed", 10),
        ("train.compile=on", "train.compile", "on"),
        ("train.compile=off", "train.compile", "off"),
        ("train.betas=[0.9, 95e-2]", "train.betas", [0.9, 0.95]),
        ("similarity.sigma=median", "similarity.sigma", "median"),
        ("name=2024-01-01", "name", "2024-01-01"),
        ("name=12", "name", "12"),
        ("name='12'", "name", "12"),
        ("description=a: b, [c", "description", "a: b, [c"),
        ("description=1:30", "description", "1:30"),
        ("model.bias=true", "model.bias", True),
        ("train={lr: 2e-3}", "train.lr", 0.002),
    ],
)
def test_set_takes_values_as_people_write_them(override: str, path: str, value: Any) -> None:
    preset = ["similarity.preset=published"] if "sigma" in path else []
    recipe = load_recipe("quickstart", [*preset, override])
    found: Any = recipe
    for step in path.split("."):
        found = getattr(found, step)
    assert found == value
    assert type(found) is type(value)
    assert recipe.train.batch == load_recipe("quickstart").train.batch


def test_files_take_the_same_values(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, "train:\n  lr: 1e-3\n  compile: off\ndata:\n  corpus: no\n")
    assert (recipe.train.lr, recipe.train.compile, recipe.data.corpus) == (1e-3, "off", "no")


def test_the_last_of_several_overrides_wins() -> None:
    assert load_recipe("quickstart", ["train.seed=1", "train.seed=2"]).train.seed == 2


def test_a_recipe_without_a_name_takes_its_files(tmp_path: Path) -> None:
    file = tmp_path / "my first try!.yaml"
    file.write_text("train: {steps: 5}\n")
    assert load_recipe(str(file)).name == "my-first-try"


def test_a_name_that_ships_wins_over_a_file_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("name: other\n")
    assert load_recipe("quickstart").name == "quickstart"
    assert load_recipe("./quickstart").name == "other"


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_given_by_override_replaces_the_files_section(tmp_path: Path, preset: str) -> None:
    text = "similarity: {preset: paper, weight: 0.5, pairs: 9, head_frozen: true}\n"
    recipe = loaded(tmp_path, text, f"similarity.preset={preset}")
    assert recipe == loaded(tmp_path, f"similarity: {{preset: {preset}}}\n")
    assert recipe.similarity.model_dump().items() >= PRESETS[preset].items()


@pytest.mark.parametrize("order", [1, -1])
def test_overrides_of_single_fields_stay_beside_one_of_the_preset(
    tmp_path: Path, order: int
) -> None:
    overrides = ["similarity.preset=published", "similarity.pairs=7"][::order]
    recipe = loaded(tmp_path, "similarity: {preset: paper, weight: 0.5}\n", *overrides)
    assert recipe.similarity.pairs == 7
    assert recipe.similarity.weight == PRESETS["published"]["weight"]


def test_fields_of_a_file_stay_where_the_preset_is_not_overridden(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, "similarity: {preset: paper, weight: 0.5}\n", "similarity.pairs=7")
    assert (recipe.similarity.weight, recipe.similarity.pairs) == (0.5, 7)
    assert recipe.similarity.head == PRESETS["paper"]["head"]


@settings(deadline=None)
@given(
    st.text(),
    st.text(st.characters(exclude_categories=["C"])),
    st.floats(1e-12, 1e6),
    st.sampled_from(sorted(PRESETS)),
    st.booleans(),
)
def test_a_dumped_recipe_loads_equal(
    tmp_path_factory: pytest.TempPathFactory,
    description: str,
    corpus: str,
    lr: float,
    preset: str,
    comments: bool,
) -> None:
    recipe = Recipe.model_validate(
        {
            "description": description,
            "data": {"corpus": corpus},
            "train": {"lr": lr},
            "similarity": {"preset": preset},
        }
    )
    file = tmp_path_factory.getbasetemp() / "dumped.yaml"
    file.write_text(dump_recipe(recipe, comments=comments), encoding="utf-8")
    assert load_recipe(str(file)) == recipe


def test_schedules_are_written_as_they_are_read() -> None:
    points = "[[0.0, 0.0], [0.1, 0.003]]"
    recipe = load_recipe("quickstart", [f"similarity.weight={points}"])
    assert recipe.similarity.weight == [[0.0, 0.0], [0.1, 0.003]]
    assert f"  weight: {points}\n" in dump_recipe(recipe)
    assert f"  weight: {points}\n" in dump_recipe(recipe, comments=True)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps", "--set train.steps: expected FIELD=VALUE"),
        ("=3", "--set =3: expected FIELD=VALUE"),
        ("train..lr=3", "--set train..lr=3: expected FIELD=VALUE"),
        ("train.lr=[", "--set train.lr=[: the value is not valid YAML"),
        ("train={lr: 1, lr: 2}", "--set train={lr: 1, lr: 2}: the value is not valid YAML"),
    ],
)
def test_an_override_that_cannot_be_read_is_named(override: str, expected: str) -> None:
    assert expected in problem("quickstart", override)


def test_mistakes_of_every_kind_are_reported_together(tmp_path: Path) -> None:
    text = "model: {width: wide, heads: 3}\nmoe: {top_k: 99}\nmoe: {top_k: 98}\ntrain: {lrr: 1}\n"
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, text, "moe.router=smo", "nonsense")
    first, *lines = str(caught.value).splitlines()
    assert first == f"6 problems in recipe {tmp_path / 'mine.yaml'}"
    for start in (
        "  line 3: the key 'moe' is given twice",
        "  --set nonsense: expected FIELD=VALUE",
        "  model.width: expected a whole number, got 'wide'",
        "  train.lrr: unknown key. Did you mean 'lr'?",
        "  moe.top_k: 98 experts per token are more than the 8",
        "  moe.router: unknown router 'smo'",
    ):
        assert any(line.startswith(start) for line in lines)
    # Whether 3 heads divide the width cannot be said while the width is no number.
    assert "divide" not in str(caught.value)


def test_of_thousands_of_unknown_keys_ten_are_named(tmp_path: Path) -> None:
    keys = "".join(f"key{number}: {'x' * 50}\n" for number in range(2000))
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, keys + "train: {stepz: 3}\n")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("2,001 problems in recipe ")
    assert len(lines) == 12
    assert lines[1].startswith("  train.stepz: unknown key. Did you mean 'steps'?")
    assert lines[2].startswith("  key0: unknown key. Available: ")
    assert lines[-1] == "  and 1,991 more"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the recipe is empty"),
        (b"# nothing\n", "the recipe is empty"),
        (b"- a\n", "a recipe is a mapping of fields"),
        (b"text", "a recipe is a mapping of fields"),
        (b"\xff\xfea\x00", "not a text file in UTF-8"),
        (b"a: 1\n" * 200_000, "the recipe has more than 500,000 bytes"),
        (b"<<: {train: {steps: 3}}\n", "<<: unknown key"),
        (b"1: 2\n", "1: unknown key"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    assert said in problem(str(file))


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    assert loaded(tmp_path, "\ufeffname: mine\n").name == "mine"


def test_what_is_no_file_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert "not a regular file" in problem(str(tmp_path / "fifo.yaml"))
    assert "no such recipe file" in problem(str(tmp_path / "loop.yaml"))
    assert "got a folder" in problem(str(tmp_path))
    assert "File name too long" in problem("x" * 5000)
    assert "unknown recipe 'a\\x1b[31mow'" in problem("a\x1b[31mow")


def test_an_empty_name_is_no_recipe() -> None:
    assert "a recipe is a name or a file, and this is empty. Available: " in problem("")
