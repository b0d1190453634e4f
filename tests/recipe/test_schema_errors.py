"""What does not fit the schema is named with its value and what would do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from simsmoe_cli import registry
from simsmoe_cli.errors import EXIT_USAGE, UserError
from simsmoe_cli.recipe.fields import fields
from simsmoe_cli.recipe.load import load_recipe
from tests.recipe.given import loaded, problem


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=many", "train.steps: expected a whole number, got 'many'"),
        ("train.steps=1e3", "train.steps: expected a whole number, got 1000.0. Write 1000."),
        ("train.steps=2.5", "train.steps: expected a whole number, got 2.5"),
        ("train.steps=", "train.steps: expected a whole number, got nothing"),
        ("train.steps=true", "train.steps: expected a whole number, got true"),
        ("train.steps=0", "train.steps: expected a number of at least 1, got 0"),
        ("train.lr=-1", "train.lr: expected a number above 0"),
        ("train.lr=.nan", "train.lr: expected a finite number, got nan"),
        ("model.dropout=1.0", "model.dropout: expected a number below 1"),
        (
            "similarity.threshold=2",
            "similarity.threshold: expected a number of at most 1, got 2. Meaning: T*: pairs "
            "less similar than this add no loss; with cka-linear-debiased 0 is chance level, and 1 "
            "the same up to rotation and scale.",
        ),
        ("competesmoe.version=2", "competesmoe.version: expected one of 1, 2025, got 2"),
        ("model.bias=1", "model.bias: expected true or false, got 1"),
        ("train.betas=0.9", "train.betas: expected a list, got 0.9"),
        ("train.betas=[0.9]", "train.betas: expected 2 values, got [0.9]"),
        ("train.betas=[0.9, x]", "train.betas: item 2: expected a number, got 'x'"),
        ("train.betas=[0.9, 1.0]", "train.betas: must each be at least 0 and below 1"),
        ("train=5", "train: expected a section of fields, got 5"),
        ("train.optimizer=adan", "got 'adan'. Did you mean 'adam'?"),
        ("similarity.preset=[a]", "similarity.preset: expected one of none, published, paper"),
        (
            "similarity.sigma=wide",
            "similarity.sigma: expected a number, 'median' or a schedule, got 'wide'",
        ),
        ("similarity.sigma=-1", "similarity.sigma: expected a number above 0, got -1"),
        ("similarity.weight=[0, 1]", "similarity.weight: item 1: expected a list, got 0"),
        ("similarity.weight=[[0, a], [1, 1]]", "weight: item 1: expected a number, got 'a'"),
        ("similarity.temperature=0", "similarity.temperature: expected a number above 0, got 0"),
        ("similarity.temperature=hot", "expected a number or 'auto', got 'hot'"),
        ("similarity.scope=pair", "got 'pair'. Did you mean 'pairs'?"),
        ("model.pattern=sxg", "model.pattern: expected text that matches ^[sgf]+$, got 'sxg'"),
        ("name=a b", "name: expected text that matches"),
        ("train.stepz=3", "train.stepz: unknown key. Did you mean 'steps'?"),
        ("trian.steps=3", "trian: unknown key. Did you mean 'train'?"),
        ("steps=3", "steps: unknown key. Did you mean 'train.steps'?"),
        ("moe.router=smoo", "moe.router: unknown router 'smoo'. Did you mean 'smoe'?"),
    ],
)
def test_each_mistake_is_named_with_its_value_and_what_would_do(
    override: str, expected: str
) -> None:
    assert expected in problem("quickstart", override)


def test_a_dotted_key_in_a_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Write 'lr' inside the section 'train'"):
        loaded(tmp_path, "train.lr: 1e-3\n")


@pytest.mark.parametrize("value", ["-1", "2", "1e9", ".inf", "true", "x", "[1, x]", "{a: 1}", ""])
def test_no_value_of_any_field_ends_in_a_traceback(value: str) -> None:
    """Routers' sections too, each with its router chosen."""
    codes = []
    for field in fields():
        section = field.path.partition(".")[0].replace("_", "-")
        router = [f"moe.router={section}"] if section in registry.ROUTERS else []
        try:
            load_recipe("quickstart", [f"{field.path}={value}", *router])
        except UserError as error:
            codes.append(error.code)
    assert len(codes) > 20
    assert set(codes) == {EXIT_USAGE}


@pytest.mark.parametrize("value", ["1" + "0" * 30, "-1" + "0" * 30, "1e308", "-1e308"])
def test_every_number_has_bounds_that_are_named(value: str) -> None:
    tried = 0
    for field in fields():
        section = field.path.partition(".")[0].replace("_", "-")
        router = [f"moe.router={section}"] if section in registry.ROUTERS else []
        # None of them is as large as these, whatever the field means.
        given = f"[{value}, {value}]" if field.type.startswith("list") else value
        if "number" in field.type:
            with pytest.raises(UserError, match=rf"{re.escape(field.path)}: "):
                load_recipe("quickstart", [f"{field.path}={given}", *router])
            tried += 1
    assert tried > 50


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.probe_tokens=1" + "0" * 30, "of at most 10,000,000, got 1000"),
        ("moe.hidden=1" + "0" * 18, "of at most 10,000,000, got 1000"),
        ("moe.balance_weight=-1", "of at least 0, got -1"),
        ("model.repeats=1000", "3,000 sub-layers are more than the 2,000"),
        ("train.batch=1000000", "more than the 16,777,216"),
        ("train.milestones=[" + "1, " * 2000 + "1]", "at most 1,000 values, got 2,001"),
        ("data.corpus=\x1b[31mx", "no control characters are allowed, got '\\x1b[31mx'"),
        ("data.corpus='" + "x" * 5000 + "'", "at most 4,000 characters"),
        ("finetune.task=a\x1bb", "no control characters are allowed"),
        ("train.lr=" + "x" * 5000, "xxx"),
        ("a.b.c=1", "a field is SECTION.NAME or NAME"),
        (".".join("a" * 60_000) + "=1", "a field is SECTION.NAME or NAME"),
        ("train.steps=&a 3", "recipes have no anchors"),
    ],
)
def test_what_is_out_of_bounds_is_said_shortly(override: str, expected: str) -> None:
    said = problem(
        "quickstart", *(["model.pattern=sgf"] if "repeats" in override else []), override
    )
    assert expected in said
    assert said.isprintable()
    assert len(said) < 700
