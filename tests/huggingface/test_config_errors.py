"""The field at fault is found by leaving fields out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from simsmoe_cli.errors import UserError
from simsmoe_cli.huggingface.config_errors import (
    naming_the_field,
    require_finite,
    unusual_fields,
)
from simsmoe_cli.huggingface.folder import ModelFolder
from simsmoe_cli.huggingface.foreign_code import foreign_code

DEFAULT = SimpleNamespace(heads=4, width=64, act="silu", rank=None, text={"depth": 2})


def folder(**config: Any) -> ModelFolder:
    return ModelFolder(Path("place"), {"model_type": "mine", **config}, {}, "")


def build(config: dict[str, Any]) -> None:
    """What transformers might do: errors that name no field."""
    {"silu": 1, "relu": 2}[config.get("act", "silu")]
    64 // config.get("heads", 4)
    [0, 1][config.get("text", {}).get("depth", 1)]


def said(**config: Any) -> str:
    given = folder(**config)
    try:
        with naming_the_field(given, DEFAULT, build), foreign_code("it fails", "place"):
            build(given.config)
    except UserError as error:
        return str(error)
    raise AssertionError("nothing failed")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"heads": 0, "width": 64, "act": "silu"}, "heads = 0"),
        ({"heads": 4, "act": "nope"}, 'act = "nope"'),
        ({"heads": 2, "rank": None, "act": "relu", "text": {"depth": 7}}, "text.depth = 7"),
    ],
)
def test_the_field_without_which_it_works_is_named(config: dict[str, Any], named: str) -> None:
    found = said(**config)
    assert (
        f"config.json says {named}, with which transformers cannot build a model of type" in found
    )
    assert "Error" not in found


def test_two_faults_are_left_in_the_words_they_came_in() -> None:
    assert said(heads=0, act="nope") == "place: it fails: KeyError: 'nope'"


def test_nothing_is_done_where_nothing_fails() -> None:
    with naming_the_field(folder(heads=4), DEFAULT, build):
        build({"heads": 4})


def test_what_to_check_are_numbers_that_are_usually_positive() -> None:
    config = {"heads": 0, "width": None, "rank": None, "act": "x", "eos_token_id": 0}
    assert unusual_fields(config, DEFAULT) == (
        "Check in config.json: heads = 0 (default: 4), width = null (default: 64)."
    )
    assert unusual_fields({"heads": 4}, DEFAULT) == ""
    assert unusual_fields({"heads": 0}, None) == ""


def test_numbers_must_be_finite() -> None:
    require_finite(folder(eps=1e-5, limits=[0.0, float("inf")]))
    with pytest.raises(UserError, match="eps = nan, which is not a finite number"):
        require_finite(folder(eps=float("nan")))
