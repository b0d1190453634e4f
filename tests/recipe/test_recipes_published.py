"""The recipes that ship: published sizes and settings, METHODS.md section 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from simsmoe_cli.model.size import measure
from simsmoe_cli.recipe.load import dump_recipe, list_recipes, load_recipe

NAMES = [name for name, _ in list_recipes()]

# Parameters at a vocabulary of 205 that receive a gradient in the published code.
PUBLISHED = {
    "brainformer-tiny": 3_912_165,
    "brainformer-large": 134_417_581,
    "glam-small": 27_799_581,
    "mistral-medium": 62_812_077,
    "competesmoe-transformer-small": 15_315_997,
    "competesmoe-transformer-medium": 36_071_181,
    "competesmoe-transformer-large": 100_980_349,
    "competesmoe-glam-small": 14_182_877,
    "competesmoe-glam-medium": 37_541_101,
    "competesmoe-glam-large": 126_108_925,
}
STEPS = {"tiny": 25_000, "small": 60_000, "medium": 80_000, "large": 120_000}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_parameters_are_the_published_ones(name: str, parameters: int) -> None:
    assert measure(load_recipe(name), vocab_size=205).parameters == parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_training_is_the_published_one(name: str) -> None:
    recipe = load_recipe(name)
    train = recipe.train
    compete = name.startswith("competesmoe")
    size = name.rpartition("-")[2]
    assert train.steps == (STEPS[size] if compete or size == "tiny" else 50_000)
    assert (train.optimizer, train.lr) == ("adam", 7e-4 if compete else 4.5e-4)
    assert (train.schedule, train.milestones, train.gamma) == ("multistep", [20_000, 40_000], 0.1)
    assert (train.warmup_steps, train.clip_norm) == (0, 0)
    assert (train.batch, train.micro_batches, train.block) == (48, 2, 512)
    assert (recipe.model.attention, recipe.model.span, recipe.model.heads) == ("relative", 2048, 8)
    assert (recipe.moe.router, recipe.moe.top_k) == ("smoe", 2)
    assert recipe.loss_weights["balance"] == 0.01
    assert recipe.similarity.preset == "none"
    assert recipe.eval.streams == 8


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_says_what_it_is_and_is_named_as_its_file(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe.source


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_reloads_from_what_it_dumps(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    file = tmp_path / "again.yaml"
    file.write_text(dump_recipe(recipe))
    assert load_recipe(str(file)) == recipe


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", ["none", "published", "paper", "calibrated"])
def test_every_recipe_takes_every_preset(name: str, preset: str) -> None:
    recipe = load_recipe(name, [f"similarity.preset={preset}"])
    assert recipe.similarity.preset == preset


def test_mistral_modern_is_the_mixtral_layout_at_the_papers_size() -> None:
    recipe, paper = load_recipe("mistral-modern"), load_recipe("mistral-medium")
    for name in ("pattern", "repeats", "width", "heads"):
        assert getattr(recipe.model, name) == getattr(paper.model, name)
    for name in ("experts", "hidden", "top_k"):
        assert getattr(recipe.moe, name) == getattr(paper.moe, name)
    model = recipe.model
    assert (model.norm, model.norm_position, model.activation) == ("rmsnorm", "pre", "swiglu")
    assert (model.attention, model.bias, model.moe_norm) == ("rope", False, "single")
    assert model.span < recipe.train.block
