"""`simsmoe show`: what it prints is a recipe again; what is wrong is said all at once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from simsmoe_cli.recipe.fields import fields
from simsmoe_cli.recipe.load import list_recipes, load_recipe

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("flags", [(), ("--fields",)])
def test_output_is_a_recipe_equal_to_the_one_shown(
    simsmoe: Command, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    overrides = ("--set", "train.lr=3e-4", "--similarity", "paper", "--router", "smoe")
    done = simsmoe("show", "glam-small", *overrides, *flags)
    assert done.returncode == 0
    file = tmp_path / "again.yaml"
    file.write_text(done.stdout)
    shown = load_recipe(str(file))
    assert shown == load_recipe("glam-small", ["train.lr=3e-4", "similarity.preset=paper"])
    assert shown.train.lr == 3e-4
    assert shown.similarity.head == "mlp"


def test_fields_documents_every_field(simsmoe: Command) -> None:
    shown = simsmoe("show", "quickstart", "--fields").stdout
    assert Path(shown.splitlines()[0].rpartition(": ")[2]).is_file()
    text = " ".join(shown.replace("#", " ").split())
    for field in fields(load_recipe("quickstart")):
        assert " ".join(field.help.split()) in text


def test_json_holds_the_same_values(simsmoe: Command) -> None:
    done = simsmoe("show", "quickstart", "--json")
    assert json.loads(done.stdout) == yaml.safe_load(simsmoe("show", "quickstart").stdout)


def test_json_fields_give_value_type_default_and_help(simsmoe: Command) -> None:
    rows = json.loads(simsmoe("show", "quickstart", "--json", "--fields").stdout)
    by_name = {row["field"]: row for row in rows}
    assert set(by_name) == {field.path for field in fields(load_recipe("quickstart"))}
    assert by_name["train.steps"]["type"] == "whole number"
    assert by_name["train.steps"]["default"] == 1000
    assert by_name["train.steps"]["value"] == load_recipe("quickstart").train.steps
    assert by_name["similarity.sigma"]["type"] == "number, 'median' or schedule"


def test_fields_of_a_folders_model_are_left_out(simsmoe: Command) -> None:
    chosen = ("continue-huggingface", "--set", "huggingface.folder=/models/olmoe")
    rows = json.loads(simsmoe("show", *chosen, "--json", "--fields").stdout)
    values = json.loads(simsmoe("show", *chosen, "--json").stdout)
    shown = {row["field"] for row in rows}
    assert "huggingface.folder" in shown
    assert {name for name in shown if name.startswith("moe.")} == {
        f"moe.{name}" for name in values["moe"]
    }


def test_an_unknown_recipe_names_the_nearest(simsmoe: Command) -> None:
    done = simsmoe("show", "brainformer-lrage")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown recipe 'brainformer-lrage'. Did you mean 'brainformer-large'?" in done.stderr
    for name, _ in list_recipes():
        assert name in done.stderr
    assert done.stderr.count("\n") == 1


def test_one_error_is_one_line(simsmoe: Command) -> None:
    done = simsmoe("show", "quickstart", "--set", "train.steps=many")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "simsmoe: error: recipe quickstart: train.steps: expected a whole number, got 'many'\n"
    )


def test_three_errors_are_three_lines_after_their_number(simsmoe: Command, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model:\n  width: 100\n  heads: 3\nmoe: {rooter: smoe}\n")
    done = simsmoe("show", "mine.yaml", "--set", "train.lr=[fast]")
    assert (done.returncode, done.stdout) == (2, "")
    first, *problems = done.stderr.splitlines()
    assert first == "simsmoe: error: 3 problems in recipe mine.yaml"
    assert len(problems) == 3
    for expected in (
        "  model.heads: 3 heads do not divide the width 100. The nearest number that does is 2.",
        "  train.lr: expected a number, got ['fast']",
        "  moe.rooter: unknown key. Did you mean 'router'? Available: ",
    ):
        assert any(problem.startswith(expected) for problem in problems)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("train:\n  lr: 1e-3\n lr: 2\n", "mine.yaml:3: not valid YAML: "),
        ("", "mine.yaml: the recipe is empty"),
        ("- a\n- b\n", "mine.yaml: a recipe is a mapping of fields"),
        ("name: !!python/object/apply:os.getcwd []\n", "mine.yaml:1: not valid YAML: "),
        ("a: &x [*x]\n", "mine.yaml:1: not valid YAML: recipes have no anchors"),
        ("name: a\ntrain: {}\nname: b\n", "line 3: the key 'name' is given twice"),
    ],
)
def test_a_file_that_is_no_recipe(
    simsmoe: Command, tmp_path: Path, content: str, expected: str
) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    done = simsmoe("show", "mine.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_that_is_not_there_or_not_text(simsmoe: Command, tmp_path: Path) -> None:
    done = simsmoe("show", "mine.yaml")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "mine.yaml: no such recipe file" in done.stderr
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00name")
    done = simsmoe("show", "mine.yaml")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "mine.yaml: not a text file in UTF-8" in done.stderr
    done = simsmoe("show", ".")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert ".: expected a recipe file, got a folder" in done.stderr
