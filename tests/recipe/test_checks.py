"""Settings that contradict one another are named; those at a border are allowed."""

from __future__ import annotations

import pytest

from simsmoe_cli.recipe.load import load_recipe
from tests.recipe.given import problem


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["model.heads=5"],
            "model.heads: 5 heads do not divide the width 128. The nearest number that does is 4.",
        ),
        (
            ["model.heads=128"],
            "model.heads: rope needs an even head width, and 128/128 is odd",
        ),
        (
            ["model.moe_norm=double", "model.pattern=sf", "similarity.preset=none"],
            "pattern 'sf' has no g",
        ),
        (["model.attention=relative", "model.rope_base=5e5"], "model.rope_base: has no effect"),
        (
            ["train.batch=16", "train.micro_batches=5"],
            "5 does not divide the batch of 16. The nearest number that does is 4.",
        ),
        (
            ["model.attention=relative", "train.order=shuffled"],
            "train.order: relative attention carries memory",
        ),
        (["train.warmup_steps=9000"], "9000 steps of warm-up are more than the 400 of training"),
        (["train.schedule=multistep"], "train.milestones: schedule multistep needs at least one"),
        (
            ["train.schedule=multistep", "train.milestones=[20, 10]"],
            "train.milestones: must be positive and ascending, got [20, 10]",
        ),
        (
            ["train.schedule=multistep", "train.milestones=[0, 10]"],
            "train.milestones: must be positive and ascending, got [0, 10]",
        ),
        (["train.milestones=[10]"], "train.milestones: has no effect with schedule cosine"),
        (["train.gamma=0.5"], "train.gamma: has no effect with schedule cosine"),
        (
            ["train.schedule=constant", "train.final_lr_ratio=0.1"],
            "Leave it out, or set train.schedule to linear or cosine.",
        ),
        (["eval.overlap=256"], "eval.overlap: 256 leaves nothing new in a block of 256"),
        (
            ["eval.overlap=1", "model.attention=relative"],
            "eval.overlap: relative attention carries its context along",
        ),
    ],
)
def test_contradictions_are_named(overrides: list[str], expected: str) -> None:
    assert expected in problem("quickstart", *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.validate_every=0", "train.checkpoint_every=0", "train.probe_every=0"],
        ["moe.top_k=8"],
        ["moe.top_k=1"],
        ["similarity.preset=none", "moe.experts=1", "moe.top_k=1"],
        ["model.pattern=sf", "similarity.preset=none"],
        ["moe.hidden=250", "moe.backend=loop"],
        ["train.warmup_steps=300"],
        ["eval.overlap=255"],
        ["model.attention=relative", "model.heads=128"],
    ],
)
def test_borders_are_allowed(overrides: list[str]) -> None:
    load_recipe("quickstart", overrides)
