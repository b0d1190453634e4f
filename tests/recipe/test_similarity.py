"""Settings of similarity learning: contradictions, schedules, and fields without effect."""

from __future__ import annotations

import pytest

from simsmoe_cli.errors import UserError
from simsmoe_cli.recipe.load import load_recipe
from tests.recipe.given import problem


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["similarity.preset=none", "similarity.threshold=0.5"],
            "similarity.threshold: has no effect with similarity.preset none",
        ),
        (["model.pattern=sf", "similarity.preset=paper"], "and pattern 'sf' has no g"),
        (
            ["moe.experts=1", "moe.top_k=1", "similarity.preset=paper"],
            "similarity.preset: similarity learning needs at least 2 experts",
        ),
        (["similarity.min_tokens=200"], "similarity.min_tokens: 200 is more than the 128 tokens"),
        (["similarity.sigma=median"], "similarity.sigma: has no effect with measure cka-linear"),
        (
            ["similarity.measure=infonce", "similarity.sigma=[[0, 1], [1, 2]]"],
            "similarity.sigma: has no effect with measure infonce. "
            "Leave it out, or set similarity.measure to cka-rbf.",
        ),
        (["similarity.temperature=0.5"], "has no effect with measure cka-linear-debiased"),
        (
            ["similarity.measure=rince-v1", "similarity.rince_q=0.2"],
            "similarity.rince_q: has no effect with measure rince-v1. "
            "Leave it out, or set similarity.measure to rince-v2.",
        ),
        (
            ["similarity.scope=experts", "similarity.spread_weight=2"],
            "similarity.spread_weight: has no effect with scope experts",
        ),
        (
            ["similarity.scope=layer", "similarity.pairs=9"],
            "similarity.pairs: has no effect with scope layer, which compares all experts",
        ),
        (
            ["similarity.scope=experts", "similarity.min_tokens=20"],
            "similarity.min_tokens: has no effect with scope experts",
        ),
        (
            ["similarity.scope=layer", "similarity.anywhere=false"],
            "similarity.anywhere: has no effect with scope layer",
        ),
        (
            ["similarity.scope=experts", "similarity.measure=cosine"],
            "similarity.measure: has no effect with scope experts",
        ),
        (
            ["similarity.measure=directclr", "similarity.directclr_width=129"],
            "similarity.directclr_width: 129 is more than the 128 features that are compared",
        ),
        (
            [
                "similarity.measure=directclr",
                "similarity.directclr_width=9",
                "similarity.head=linear",
            ],
            "9 is more than the 8 features that are compared. Use at most 8.",
        ),
        (["similarity.head_frozen=true"], "similarity.head_frozen: has no effect without a head"),
    ],
)
def test_contradictions_are_named(overrides: list[str], expected: str) -> None:
    assert expected in problem("quickstart", *overrides)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "similarity.weight=[[0, 0.1]]",
            "similarity.weight: a schedule needs at least two points [share of training, value]. "
            "For example [[0, 0.0], [0.1, 0.5]].",
        ),
        ("similarity.weight=[[0, 1, 2], [1, 1, 2]]", "a schedule needs at least two points"),
        (
            "similarity.threshold=[[0, 0.5], [0.5, 1.5]]",
            "similarity.threshold: values must be within 0..1, got 1.5",
        ),
        ("similarity.weight=[[0, 0.5], [1, -0.5]]", "values must be within 0..1e+06, got -0.5"),
        (
            "similarity.check_every=[[0.5, 1], [0.5, 2]]",
            "similarity.check_every: shares of training must ascend within 0..1, got [0.5, 0.5]",
        ),
        ("similarity.weight=[[0, 1], [100, 0]]", "must ascend within 0..1, got [0.0, 100.0]"),
        ("similarity.weight=0", "similarity.weight: is 0 throughout"),
        ("similarity.weight=[[0, 0], [1, 0]]", "Set similarity.preset to none"),
        (
            "similarity.measure=cka_linear",
            "similarity.measure: unknown measure 'cka_linear'. Did you mean 'cka-linear'?",
        ),
    ],
)
def test_wrong_measures_and_schedules_are_named(override: str, expected: str) -> None:
    assert expected in problem("quickstart", override)


@pytest.mark.parametrize(
    "overrides",
    [
        ["similarity.weight=[[0, 0], [1, 0.003]]", "similarity.threshold=[[0.1, 1], [0.2, 0.5]]"],
        ["similarity.scope=layer", "similarity.min_tokens=16"],
        ["similarity.preset=published", "similarity.scope=layer"],
        ["similarity.preset=published", "similarity.sigma=[[0, 0.9], [1, 0.8]]"],
        ["similarity.scope=layer", "similarity.tokens=4"],
        ["similarity.scope=experts", "similarity.temperature=0.5"],
        ["similarity.measure=directclr", "similarity.directclr_width=128"],
        ["similarity.measure=tico", "similarity.spread_weight=0"],
    ],
)
def test_borders_are_allowed(overrides: list[str]) -> None:
    load_recipe("quickstart", overrides)


def test_the_width_of_a_hugging_face_model_is_its_own() -> None:
    chosen = ["similarity.measure=directclr", "similarity.directclr_width=360"]
    folder = ["huggingface.folder=/models/own", "huggingface.config={hidden_size: 2048}"]
    load_recipe("continue-huggingface", [*chosen, *folder])
    small = [*chosen, folder[0], "huggingface.config={hidden_size: 256}"]
    with pytest.raises(UserError, match="360 is more than the 256 features"):
        load_recipe("continue-huggingface", small)


def test_values_in_force_are_those_that_have_an_effect() -> None:
    def in_force(*overrides: str, progress: float = 0.5) -> dict[str, float]:
        return load_recipe("quickstart", overrides).similarity.in_force(progress)

    assert in_force("similarity.weight=[[0, 0], [1, 0.003]]") == {
        "weight": 0.0015,
        "threshold": 0.1,
        "check_every": 0.0,
    }
    assert "check_every" not in in_force("similarity.scope=layer")
    assert in_force("similarity.preset=paper")["sigma"] == 0.8
    assert "sigma" not in in_force("similarity.preset=paper", "similarity.sigma=median")
