"""Layers are called what the model calls them."""

from __future__ import annotations

import pytest

from simsmoe_cli.errors import EXIT_USAGE, UserError
from simsmoe_cli.run.layer_labels import (
    find_layer,
    find_layers,
    layer_labels,
    pattern_labels,
    recipe_labels,
)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["layers.1.moe", "layers.3.moe"], ["1", "3"]),
        (["model.layers.1.mlp", "model.layers.2.mlp"], ["1", "2"]),
        (["model.layers.7.mlp"], ["7"]),
        (["decoder.block.1.layer.2.mlp", "decoder.block.3.layer.2.mlp"], ["1", "3"]),
        (["model.layers.0.mlp", "model.layers.1.block_sparse_moe"], ["0", "1"]),
        (
            ["encoder.block.1.layer.1.mlp", "decoder.block.1.layer.2.mlp"],
            ["encoder.block.1.layer.1", "decoder.block.1.layer.2"],
        ),
        (
            ["model.encoder.layers.3.ffn", "model.decoder.layers.3.ffn"],
            ["encoder.layers.3", "decoder.layers.3"],
        ),
        (["stages.0.layers.3.mlp", "stages.1.layers.5.mlp"], ["0.layers.3", "1.layers.5"]),
        (
            ["model.layers.0.mlp", "model.layers.0.attention", "model.layers.1.mlp"],
            ["0.mlp", "0.attention", "1.mlp"],
        ),
        (["first", "second"], ["first", "second"]),
        ([""], ["0"]),
        (["moe"], ["moe"]),
        (["same.1", "same.1"], ["0", "1"]),
        ([], []),
    ],
)
def test_a_layer_has_the_number_of_its_module(names: list[str], labels: list[str]) -> None:
    assert layer_labels(names) == labels


def test_layers_of_a_pattern_count_all_sub_layers() -> None:
    assert pattern_labels("sgsfss", 2) == ["1", "7"]
    assert pattern_labels("sg", 3) == ["1", "3", "5"]
    assert pattern_labels("sf", 3) == []
    assert len(pattern_labels("sg", 10**18)) <= 1 << 20


@pytest.mark.parametrize(
    ("recipe", "labels"),
    [
        ({"model": {"pattern": "sgf", "repeats": 2}}, ["1", "4"]),
        ({"model": {"pattern": "sg", "repeats": True}}, []),
        ({"model": {"pattern": 3, "repeats": 2}}, []),
        ({"model": {"pattern": "sg"}}, []),
        ({"model": "sg"}, []),
        (None, []),
    ],
)
def test_a_recipe_from_a_file_names_its_layers_or_none(recipe: object, labels: list[str]) -> None:
    assert recipe_labels(recipe) == labels


def test_layers_are_asked_for_by_the_models_numbers() -> None:
    labels = ["1", "3", "5"]
    assert find_layer("3", labels, "--layer") == 1
    assert find_layers("5, 1,01", labels, "--layers") == [0, 2]
    assert find_layers("decoder.1", ["encoder.1", "decoder.1"], "--layers") == [1]


@pytest.mark.parametrize("asked", ["0", "2", "-1", "one", "", ",", "1\x1b", "１", "9" * 5000])
def test_an_unknown_layer_is_told_which_there_are(asked: str) -> None:
    with pytest.raises(UserError) as caught:
        find_layers(asked, ["1", "3"], "--layers")
    assert caught.value.code == EXIT_USAGE
    text = str(caught.value)
    assert text.startswith("--layers: ")
    assert text.endswith("Layers with experts: 1, 3.")
    assert text.isprintable()
    assert len(text) < 200


def test_a_long_list_of_layers_is_cut() -> None:
    with pytest.raises(UserError, match="22, 23 and 76 more"):
        find_layer("x", [str(number) for number in range(100)], "--layer")


def test_ranges_of_layers_have_both_ends_and_pass_over_layers_without_experts() -> None:
    labels = ["1", "3", "5", "7", "10"]
    assert find_layers("3-7", labels, "--layers") == [1, 2, 3]
    assert find_layers("0-3, 10", labels, "--layers") == [0, 1, 4]
    assert find_layers("7-7,3", labels, "--layers") == [1, 3]
    for nothing in ("8-9", "7-3"):
        with pytest.raises(UserError, match=rf"'{nothing}'.*Layers with experts: 1, 3, 5, 7, 10"):
            find_layers(nothing, labels, "--layers")
    with pytest.raises(UserError, match=r"'3-'.*Layers with experts: 1"):
        find_layers("3-", labels, "--layers")
    assert find_layers("1-2", ["1-2", "3"], "--layers") == [0]
