"""The learning rate by its formulae, what decays, and the guard against non-finite steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.recipe.schema import TrainSettings
from simsmoe_cli.train.optim import NonFiniteGuard, build_optimizer, learning_rate
from tests.train.tiny import recipe

CPU = torch.device("cpu")
# Every kind of parameter there is: norms with biases, biases of dense layers and of stacked
# experts, a position table, a head of similarity learning.
ALL_KINDS: dict[str, dict[str, Any]] = {
    "model": {
        "pattern": "sgf",
        "repeats": 1,
        "attention": "relative",
        "norm": "layernorm",
        "moe_norm": "double",
        "activation": "relu",
        "bias": True,
    },
    "similarity": {"preset": "published", "head_frozen": True},
}


def settings(**fields: Any) -> TrainSettings:
    return recipe(train={"lr": 0.5, "steps": 100, **fields}).train


@pytest.mark.parametrize("schedule", ["constant", "multistep", "linear", "cosine"])
def test_warm_up_is_linear_and_reaches_the_peak(schedule: str) -> None:
    warm = settings(schedule=schedule, warmup_steps=4, milestones=[50])
    assert [learning_rate(step, warm) for step in range(5)] == [0.125, 0.25, 0.375, 0.5, 0.5]


def test_constant_stays() -> None:
    assert {learning_rate(step, settings(schedule="constant")) for step in range(100)} == {0.5}


def test_multistep_multiplies_at_the_steps_named() -> None:
    """As MultiStepLR does, when stepped once per optimizer step."""
    multistep = settings(schedule="multistep", milestones=[30, 60], gamma=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60], gamma=0.1)
    for step in range(100):
        assert learning_rate(step, multistep) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()
    assert learning_rate(29, multistep) == 0.5
    assert learning_rate(30, multistep) == pytest.approx(0.05)
    assert learning_rate(60, multistep) == pytest.approx(0.005)


@pytest.mark.parametrize("warmup", [0, 20])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_linear_and_cosine_fall_to_the_final_ratio(warmup: int, final: float) -> None:
    for schedule in ("linear", "cosine"):
        falling = settings(schedule=schedule, warmup_steps=warmup, final_lr_ratio=final)
        for step in range(warmup, 100):
            done = (step - warmup) / (99 - warmup)
            left = 1 - done if schedule == "linear" else math.cos(math.pi * done / 2) ** 2
            expected = 0.5 * (final + (1 - final) * left)
            assert learning_rate(step, falling) == pytest.approx(expected, rel=1e-9, abs=1e-15)
        assert learning_rate(warmup, falling) == 0.5
        assert learning_rate(99, falling) == pytest.approx(0.5 * final, abs=1e-15)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (5, 5), (5, 4)])
def test_schedules_without_room_to_fall_stay_at_the_peak(steps: int, warmup: int) -> None:
    for schedule in ("linear", "cosine"):
        short = settings(schedule=schedule, steps=steps, warmup_steps=warmup)
        assert learning_rate(steps - 1, short) == 0.5


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_only_matrices_decay(optimizer: str) -> None:
    """With no gradient, decay alone moves parameters."""
    torch.manual_seed(0)
    model = LanguageModel(recipe(**ALL_KINDS), vocab_size=11)
    for parameter in model.parameters():
        parameter.data += 1.0  # nothing is 0, so all that decays moves
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    adam = build_optimizer(model, settings(optimizer=optimizer, weight_decay=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adam.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {
        "embedding.weight",
        "position",
        "output.weight",
        *(f"layers.0.attention.{name}.weight" for name in ("query", "key", "value", "out")),
        "layers.1.moe.router.gate.weight",
        "layers.1.moe.experts.w_in",
        "layers.1.moe.experts.w_out",
        "layers.2.ffn.w_in.weight",
        "layers.2.ffn.w_out.weight",
    }
    if optimizer == "adamw":
        expected = before["output.weight"] * (1 - 0.5 * 0.1)
        torch.testing.assert_close(model.output.weight.detach(), expected)


def test_a_frozen_head_does_not_learn() -> None:
    model = LanguageModel(recipe(**ALL_KINDS), vocab_size=11)
    head = [name for name, _ in model.named_parameters() if ".head." in name]
    assert head
    learning = {id(p) for g in build_optimizer(model, settings()).param_groups for p in g["params"]}
    frozen = {name for name, p in model.named_parameters() if id(p) not in learning}
    assert frozen == set(head)


@pytest.fixture
def weight() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))


def step(
    weight: torch.nn.Parameter,
    adam: torch.optim.Optimizer,
    guard: NonFiniteGuard | None,
    loss: float = 1.0,
    grad_norm: float = 1.0,
    grad: float = 0.25,
) -> None:
    weight.grad = torch.full_like(weight, grad)
    if guard is not None:
        guard.watch(adam, torch.tensor(loss), torch.tensor(grad_norm))
    adam.step()


def moments(weight: torch.nn.Parameter, adam: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {"weight": weight.detach().clone()} | {
        name: value.clone() for name, value in adam.state[weight].items()
    }


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize(
    "bad",
    [{"loss": math.nan}, {"loss": math.inf}, {"grad_norm": math.nan}, {"grad_norm": math.inf}],
)
def test_a_bad_step_changes_nothing(
    weight: torch.nn.Parameter, optimizer: str, bad: dict[str, float]
) -> None:
    adam = build_optimizer(
        torch.nn.ParameterList([weight]), settings(optimizer=optimizer, weight_decay=0.1)
    )
    guard = NonFiniteGuard(CPU)
    step(weight, adam, guard)
    step(weight, adam, guard)
    assert (guard.tripped(), guard.good_steps()) == (False, 2)
    before = moments(weight, adam)
    step(weight, adam, guard, grad=math.nan, **bad)
    assert (guard.tripped(), guard.good_steps()) == (True, 2)
    # Good steps after a bad one do not count, and change nothing either.
    step(weight, adam, guard)
    assert (guard.tripped(), guard.good_steps()) == (True, 2)
    after = moments(weight, adam)
    assert before.keys() == after.keys() == {"weight", "exp_avg", "exp_avg_sq", "step"}
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_good_steps_are_those_of_the_plain_optimizer(weight: torch.nn.Parameter) -> None:
    other = torch.nn.Parameter(weight.detach().clone())
    guarded = build_optimizer(torch.nn.ParameterList([weight]), settings())
    plain = build_optimizer(torch.nn.ParameterList([other]), settings())
    guard = NonFiniteGuard(CPU)
    for _ in range(3):
        step(weight, guarded, guard)
        step(other, plain, None)
    assert torch.equal(weight, other)
    assert guard.good_steps() == 3
