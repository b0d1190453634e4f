"""What a recipe may say about its router."""

from __future__ import annotations

import pytest

from simsmoe_cli import registry
from simsmoe_cli.errors import UserError
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.routers import RouterSections, SMoEDropoutSettings, section_name
from tests.recipe.given import problem
from tests.routers import CASES, overrides


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("preset", ["none", "published", "paper", "calibrated"])
def test_every_router_takes_every_preset(case: str, preset: str) -> None:
    recipe = load_recipe("quickstart", [*CASES[case], f"similarity.preset={preset}"])
    assert recipe.moe.router == case.partition(",")[0]


@pytest.mark.parametrize("router", registry.ROUTERS)
def test_more_experts_per_token_than_there_are_is_an_error(router: str) -> None:
    with pytest.raises(UserError, match=r"moe.top_k: 9 experts per token are more than the 8"):
        load_recipe("quickstart", [*overrides(router), "moe.top_k=9"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            ["moe.router=switch"],
            "moe.top_k: router switch sends a token to 1 expert, not 2. Set it to 1, or "
            "moe.router to smoe.",
        ),
        (
            ["moe.router=gshard", "moe.top_k=3"],
            "moe.top_k: router gshard sends a token to 2 experts, not 3. Set it to 2, or "
            "moe.router to smoe.",
        ),
        (
            ["switch.jitter=0.2"],
            "switch.jitter: has no effect with router smoe. Leave it out, or set moe.router to "
            "switch.",
        ),
        (["xmoe.tau=0.1"], "xmoe.tau: has no effect with router smoe"),
        (
            ["moe.router=xmoe", "xmoe.tau=0.1", "xmoe.tau_min=0.1"],
            "xmoe.tau: must be above xmoe.tau_min, and 0.1 is not above 0.1. Raise it, or lower "
            "xmoe.tau_min.",
        ),
        (
            ["moe.router=xmoe", "xmoe.published=true", "xmoe.dimension=16"],
            "xmoe.dimension: has no effect with xmoe.published, which fixes it. Leave it out, or "
            "set xmoe.published to false.",
        ),
        (
            ["moe.router=stablemoe", "stablemoe.published=true", "stablemoe.freeze_after=0.5"],
            "stablemoe.freeze_after: has no effect with stablemoe.published",
        ),
        (
            ["moe.router=stablemoe", "stablemoe.freeze_after=0"],
            "stablemoe.freeze_after: expected a number above 0, got 0",
        ),
        (
            ["moe.router=hash", "moe.z_weight=1e-3"],
            "moe.z_weight: has no effect with router hash, which learns nothing. Set it to 0.",
        ),
        (
            ["moe.router=random", "moe.balance_weight=0.01"],
            "moe.balance_weight: has no effect with router random, which has no balance loss",
        ),
        (
            ["moe.router=stable-moe"],
            "moe.router: unknown router 'stable-moe'. Did you mean 'stablemoe'?",
        ),
    ],
)
def test_wrong_combinations_are_named_with_what_to_do(changes: list[str], expected: str) -> None:
    assert expected in problem("quickstart", *changes)


def test_a_router_no_layer_uses_is_not_checked() -> None:
    nothing_routed = ["model.pattern=sf", "similarity.preset=none"]
    load_recipe("quickstart", [*nothing_routed, "moe.router=switch"])


def test_stablemoe_in_two_stages_balances_more() -> None:
    def weights(*changes: str) -> dict[str, float]:
        return load_recipe("quickstart", ["moe.router=stablemoe", *changes]).loss_weights

    assert (weights()["balance"], weights()["distill"]) == (0.3, 0.3)
    assert weights("stablemoe.published=true")["balance"] == 0.01
    assert weights("moe.balance_weight=0.02")["balance"] == 0.02


def test_smoe_dropout_continues_with_as_many_experts_as_it_had() -> None:
    """K grows from 1 to 5 in 101 steps: at step 50, halfway, it is 3."""
    recipe = load_recipe(
        "quickstart", ["moe.router=smoe-dropout", "smoe_dropout.k_start=1", "smoe_dropout.k_end=5"]
    )
    moe, router = recipe.router_settings.continued(recipe.moe, 50, 101)
    assert moe == recipe.moe.model_copy(update={"top_k": 3})
    assert router == SMoEDropoutSettings(k_end=5)


def test_other_routers_continue_as_they_are() -> None:
    recipe = load_recipe("quickstart", ["moe.router=xmoe", "xmoe.tau=0.5"])
    continued = recipe.router_settings.continued(recipe.moe, 50, 101)
    assert continued == (recipe.moe, recipe.router_settings)


def test_every_section_is_that_of_a_router() -> None:
    names = {section_name(router) for router in registry.ROUTERS}
    assert set(RouterSections.model_fields) <= names
