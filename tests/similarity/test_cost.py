"""What similarity learning costs: counted FLOPs against torch's own counter, and the budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from simsmoe_cli.kernels.cpu import as_on_accelerators
from simsmoe_cli.model.language_model import LanguageModel
from simsmoe_cli.model.size import measure
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.recipe.schema import Recipe
from simsmoe_cli.similarity.cost import Cost

SMALL = {
    "model": {"pattern": "sg", "repeats": 2, "width": 16, "heads": 2},
    "moe": {"experts": 6, "hidden": 24, "backend": "loop"},  # grouped products are not counted
    "train": {"batch": 2, "block": 48},
}


def step_flops(model: LanguageModel, compare: int) -> int:
    """FLOPs of a forward and backward pass, as torch counts them."""
    tokens_BM = torch.randint(50, (2, 48))
    # Kernels for CPUs combine experts without a product that torch would count.
    with as_on_accelerators(), FlopCounterMode(display=False) as counter:
        output = model.score(tokens_BM, tokens_BM, (), StepContext(compare=compare))
        (output.nats + sum(output.losses.values())).backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    "similarity",
    [
        {"preset": "calibrated"},
        {"preset": "calibrated", "tokens": 500, "pairs": 100},  # more than there are
        {"preset": "published", "check_every": 0.0},
        {"preset": "paper", "check_every": 0.0, "measure": "infonce"},
        {"preset": "calibrated", "scope": "layer", "tokens": 40},
        {"preset": "calibrated", "scope": "experts", "head": "mlp"},
        {"preset": "calibrated", "weight": [[0, 0.1], [1, 0.2]], "threshold": [[0, 0], [1, 0.5]]},
    ],
    ids=str,
)
@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_counted_flops_are_those_of_a_step(similarity: dict[str, Any], activation: str) -> None:
    sections = {**SMALL, "similarity": similarity}
    sections["model"] = {**SMALL["model"], "activation": activation}
    torch.manual_seed(0)
    model = LanguageModel(Recipe.model_validate(sections), 50)
    cost = model.similarity_cost(96)
    assert cost is not None
    assert cost.comparison_flops == step_flops(model, 1) - step_flops(model, 0)


def test_rows_with_dropout_cost_no_more() -> None:
    """They are computed apart, where their tokens need no gradient."""
    sections = {**SMALL, "similarity": {"preset": "calibrated"}}
    sections["model"] = {**SMALL["model"], "dropout": 0.1, "activation": "relu"}
    model = LanguageModel(Recipe.model_validate(sections), 50)
    cost = model.similarity_cost(96)
    assert cost is not None
    spent = step_flops(model, 1) - step_flops(model, 0)
    rows = 2 * 4 * 4 * 64
    assert cost.comparison_flops == spent + rows * 2 * 16 * 24


@pytest.mark.parametrize("name", ["quickstart", "brainformer-tiny", "mistral-modern"])
@pytest.mark.parametrize("tokens", [2048, 8192, 49152])
@pytest.mark.parametrize("experts", [8, 16, 64])
def test_calibrated_takes_at_most_its_budget(name: str, tokens: int, experts: int) -> None:
    given = [
        f"moe.experts={experts}", f"train.batch={tokens // 1024}", "train.block=1024",
        "train.micro_batches=1", "model.repeats=1",
    ]  # fmt: skip
    cost = measure(load_recipe(name, [*given, "similarity.preset=calibrated"]), 205).similarity
    assert cost is not None
    assert cost.share <= 0.05
    # With one comparison more in as many steps it would not.
    assert cost.every == 1 or cost.comparison_flops > 0.05 * (cost.every - 1) * cost.step_flops
    spent = sum(cost.comparison_flops for step in range(1000) if cost.at(step))
    assert spent <= 0.05 * 1000 * cost.step_flops + cost.comparison_flops
    assert sum(cost.at(step) for step in range(cost.every * 10)) == cost.every * 10


@pytest.mark.parametrize("preset", ["published", "paper"])
def test_what_was_published_has_no_budget(preset: str) -> None:
    few = ["train.batch=1", "train.block=64", f"similarity.preset={preset}"]
    cost = measure(load_recipe("quickstart", few), 205).similarity
    assert cost is not None
    assert cost.share > 0.5
    assert [cost.at(step) for step in range(5)] == [1] * 5


def test_no_similarity_learning_costs_nothing() -> None:
    assert measure(load_recipe("quickstart", ["similarity.preset=none"]), 205).similarity is None


def test_a_comparison_stands_for_the_steps_until_the_next() -> None:
    cost = Cost.within(0.05, comparison_flops=101, step_flops=1000)
    assert cost.every == 3
    assert [cost.at(step) for step in range(7)] == [3, 0, 0, 3, 0, 0, 3]
    assert Cost.within(0.05, 50, 1000).every == 1
    assert Cost.within(None, 5000, 1000).every == 1
