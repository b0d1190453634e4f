"""What the rest of the program asks a recipe."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.routers import RouterSettings, XMoESettings
from simsmoe_cli.recipe.schema import Recipe


def test_sub_layers_are_the_pattern_repeated() -> None:
    recipe = load_recipe("quickstart", ["model.pattern=sgf", "model.repeats=2"])
    assert recipe.model.sublayers == "sgfsgf"


def test_the_settings_of_the_router_are_its_section_or_empty() -> None:
    assert type(load_recipe("quickstart").router_settings) is RouterSettings
    chosen = load_recipe("quickstart", ["moe.router=xmoe", "xmoe.tau=0.5"])
    assert chosen.router_settings == XMoESettings(tau=0.5)


def test_sections_that_are_not_read_are_idle() -> None:
    recipe = load_recipe("quickstart", ["moe.router=loss-free"])
    assert {"xmoe", "switch", "finetune"} <= recipe.idle_sections
    assert "loss_free" not in recipe.idle_sections
    finetuned = load_recipe("quickstart", ["finetune.task=sst2", "eval.final_blocks=0"])
    assert "finetune" not in finetuned.idle_sections


@pytest.mark.parametrize(
    ("overrides", "shuffled"),
    [
        (["model.attention=rope"], True),
        (["model.attention=relative"], False),
        (["train.order=contiguous"], False),
        (["train.order=shuffled"], True),
    ],
)
def test_blocks_are_shuffled_where_no_memory_is_carried(
    overrides: list[str], shuffled: bool
) -> None:
    assert load_recipe("quickstart", overrides).shuffles_blocks is shuffled


def test_every_loss_has_its_coefficient() -> None:
    recipe = load_recipe("quickstart", ["moe.router=competesmoe", "moe.z_weight=1e-3"])
    assert recipe.loss_weights == {
        "balance": 0.01,
        "z": 1e-3,
        "similarity": [[0.2, 0.0], [0.5, 0.003]],
        "compete": 0.01,
    }


def test_a_recipe_never_changes_once_validated() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().name = "other"
