"""The section `parallel`: its grid of ranks, and what does not fit experts, ranks or batch."""

from __future__ import annotations

import pytest

from simsmoe_cli.errors import UserError
from simsmoe_cli.recipe.load import load_recipe, require_ranks
from simsmoe_cli.recipe.parallel import Layout, ParallelSettings
from tests.recipe.given import problem


@pytest.mark.parametrize(
    ("given", "ranks", "layout"),
    [
        ({}, 1, Layout(1, 1, 1)),
        ({}, 6, Layout(1, 6, 1)),
        ({"replicate": 2}, 6, Layout(2, 3, 1)),
        ({"shard": 2}, 6, Layout(3, 2, 1)),
        ({"shard": 4, "replicate": 2, "expert": 2}, 8, Layout(2, 4, 2)),
    ],
)
def test_the_grid_of_ranks(given: dict[str, int], ranks: int, layout: Layout) -> None:
    settings = ParallelSettings.model_validate(given)
    assert settings.layout(ranks) == layout
    assert not list(settings.problems_of(ranks, batch=8, micro_batches=1))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["parallel.expert=3"], "3 ranks do not divide the 8 experts. The nearest number"),
        (["parallel.expert=2", "moe.backend=fastmoe"], "has no expert parallelism"),
        (["parallel.expert=2", "model.pattern=sf", "similarity.preset=none"], "without experts"),
        (["parallel.shard=0"], "parallel.shard"),
        (["parallel.timeout_s=0"], "parallel.timeout_s"),
    ],
)
def test_contradictions_are_named(overrides: list[str], expected: str) -> None:
    assert expected in problem("quickstart", *overrides)


@pytest.mark.parametrize(
    ("overrides", "ranks", "expected"),
    [
        (["parallel.shard=2"], 1, "parallel.shard: 1 x 2 ranks (replicate x shard) are not the 1"),
        (["parallel.replicate=3"], 4, "parallel.replicate: 3 x 1 ranks (replicate x shard)"),
        (["parallel.expert=2"], 1, "parallel.expert: 2 ranks that share the experts do not"),
        (["parallel.expert=4", "parallel.replicate=2"], 4, "The nearest number that does is 2"),
        (["train.batch=4"], 5, "train.batch: a micro-batch of 4 sequences cannot be divided"),
        (["train.batch=4", "train.micro_batches=2"], 4, "Use at most 1 micro-batches"),
        (
            ["similarity.measure=dcl"],
            2,
            "similarity.measure: dcl cannot be added up over the tokens",
        ),
        (["similarity.scope=experts"], 2, "similarity.scope: experts cannot be contrasted over"),
        (["similarity.preset=paper", "similarity.sigma=median"], 2, "similarity.sigma: the median"),
    ],
)
def test_what_does_not_fit_the_ranks(overrides: list[str], ranks: int, expected: str) -> None:
    recipe = load_recipe("quickstart", overrides)
    with pytest.raises(UserError) as caught:
        require_ranks(recipe, ranks)
    assert expected in str(caught.value)
