"""SMoE-Dropout: a random router that never learns, and sends tokens to ever more experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from simsmoe_cli.errors import UserError
from simsmoe_cli.moe.layer import MoELayer
from simsmoe_cli.moe.routers.base import RouterInput, RouterSpec, StepContext
from simsmoe_cli.moe.routers.smoe_dropout import SMoEDropoutRouter
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.moe import MoESettings
from simsmoe_cli.recipe.routers import SMoEDropoutSettings
from simsmoe_cli.recipe.schema import Recipe

NAME = "moe.router=smoe-dropout"


def make(experts: int = 16, top_k: int = 2, **settings: Any) -> SMoEDropoutRouter:
    torch.manual_seed(0)
    given = SMoEDropoutSettings(**settings)
    return SMoEDropoutRouter(RouterSpec(width=8, num_experts=experts, top_k=top_k, settings=given))


@pytest.mark.parametrize(("start", "end", "steps"), [(2, 8, 1000), (1, 16, 40), (3, 4, 7)])
def test_k_grows_linearly_from_the_first_step_to_the_last(start: int, end: int, steps: int) -> None:
    router = make(k_start=start, k_end=end)
    ks = [router.k_at(step, steps) for step in range(steps)]
    assert (ks[0], ks[-1]) == (start, end)
    for step, k in enumerate(ks):
        assert abs(k - (start + (end - start) * step / (steps - 1))) <= 0.5


def test_k_stays_after_the_last_step() -> None:
    """Where the final evaluation stands."""
    router = make(k_start=2, k_end=8)
    assert [router.k_at(step, 100) for step in (99, 100, 1000)] == [8, 8, 8]
    assert router.k_at(0, 1) == 2


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("settings", [{}, {"k_start": 4, "k_end": 6}, {"k_start": 1, "k_end": 16}])
def test_the_mean_k_is_that_of_all_steps(settings: dict[str, int], steps: int) -> None:
    router, moe = make(**settings), MoESettings(experts=16)
    ks = [router.k_at(step, steps) for step in range(steps)]
    assert router.settings.mean_k(moe, steps) == pytest.approx(sum(ks) / steps)
    assert router.settings.first_k(moe) == ks[0]


@pytest.mark.parametrize(
    ("experts", "top_k", "settings", "expected"),
    [
        (16, 2, {}, (2, 8)),
        (16, 3, {}, (3, 8)),
        (16, 2, {"k_start": 4, "k_end": 6}, (4, 6)),
        (16, 2, {"k_end": 16}, (2, 16)),
        (2, 2, {}, (2, 2)),
        (3, 2, {}, (2, 2)),
    ],
)
def test_the_range_of_k(
    experts: int, top_k: int, settings: dict[str, int], expected: tuple[int, int]
) -> None:
    router = make(experts, top_k, **settings)
    assert (router.k_start, router.k_end) == expected


@pytest.mark.parametrize("training", [True, False])
def test_tokens_go_to_k_experts_of_the_step_or_to_as_many_as_asked(training: bool) -> None:
    router = make(k_start=2, k_end=8).train(training)
    x_TD = torch.randn(10, 8)
    for step, k in ((0, 2), (50, 5), (99, 8), (100, 8)):
        assert router(
            x_TD, RouterInput(StepContext(step=step, total_steps=100))
        ).index_TK.shape == (10, k)
    asked = router(x_TD, RouterInput(StepContext(step=50, total_steps=100, top_k=3)))
    everything = router(x_TD, RouterInput(StepContext(step=50, total_steps=100, top_k=16)))
    assert torch.equal(asked.index_TK, everything.index_TK[:, :3])


def test_the_router_is_random_and_stays_as_it_was_drawn() -> None:
    recipe = Recipe.model_validate(
        {
            "model": {"width": 16},
            "moe": {"experts": 4, "hidden": 8, "router": "smoe-dropout", "z_weight": 0.1},
        }
    )
    layers = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        layers.append(MoELayer(recipe))
    layer, other = layers
    assert not torch.equal(layer.router.gate.weight, other.router.gate.weight)
    drawn = {name: value.clone() for name, value in layer.router.state_dict().items()}
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for step in range(3):
        output = layer(torch.randn(1, 32, 16), StepContext(step=step, total_steps=3))
        (output.hidden.square().mean() + output.losses["z"]).backward()
        optimizer.step()
    assert drawn.keys() == layer.router.state_dict().keys()
    assert all(torch.equal(value, drawn[key]) for key, value in layer.router.state_dict().items())


def test_nothing_that_cannot_learn_has_a_balance_loss() -> None:
    assert make()(torch.randn(4, 8), RouterInput()).losses == {}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            ["smoe_dropout.k_end=9"],
            "smoe_dropout.k_end: 9 experts per token are more than the 8 there are. Use at most 8.",
        ),
        (
            ["smoe_dropout.k_start=9", "smoe_dropout.k_end=9"],
            "smoe_dropout.k_start: 9 experts per token are more than the 8 there are.",
        ),
        (
            ["smoe_dropout.k_start=4", "smoe_dropout.k_end=3"],
            "smoe_dropout.k_end: experts per token only grow, and 3 are fewer than the 4 of "
            "smoe_dropout.k_start. Use at least 4, or lower smoe_dropout.k_start.",
        ),
        (["moe.top_k=3", "smoe_dropout.k_end=2"], "2 are fewer than the 3 of moe.top_k"),
        (
            ["moe.top_k=3", "smoe_dropout.k_start=4"],
            "moe.top_k: has no effect with smoe_dropout.k_start",
        ),
        (["moe.balance_weight=0.1"], "moe.balance_weight: has no effect"),
    ],
)
def test_contradictions(changes: list[str], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("quickstart", [NAME, *changes])
    assert expected in str(caught.value)


def test_what_is_no_contradiction() -> None:
    for changes in (["smoe_dropout.k_start=2"], ["moe.balance_weight=0"], ["moe.top_k=8"]):
        load_recipe("quickstart", [NAME, *changes])
