"""Weights compared as one vector and unit by unit: copies are found, strangers are at chance."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.collapse.measure import weight_similarity
from simsmoe_cli.collapse.measure.weight_similarity import flat_cosine, matched_units
from tests.collapse.measure.made_outputs import generator


def units(experts: int = 4, hidden: int = 48, width: int = 32) -> list[torch.Tensor]:
    source = generator()
    return [torch.randn(experts, hidden, width, generator=source) for _ in range(3)]


@pytest.mark.parametrize("budget", [1e12, 1e6])
def test_renumbered_and_rescaled_units_are_found_again(budget: float) -> None:
    parts = units()
    order = torch.randperm(48, generator=generator(3))
    for factor, part in zip((3.0, 1.0, 1 / 3), parts, strict=True):
        part[2] = factor * part[0][order]
    matched = matched_units(parts, budget, generator())
    found = matched.found
    assert matched.units == (48 if budget == 1e12 else 13)
    assert matched.weights == 1
    assert found[0, 2].item() == pytest.approx(1, abs=1e-5)
    assert found[0, 1].item() == pytest.approx(matched.chance, abs=0.04)
    assert torch.allclose(found, found.T)
    assert flat_cosine(parts)[0, 2].abs() < 0.1


def test_copies_are_found_by_some_of_the_weights_of_few_units() -> None:
    source = generator()
    parts = [torch.randn(4, 40, 600, generator=source) for _ in range(2)]
    order = torch.randperm(40, generator=generator(3))
    for part in parts:
        part[2] = part[0][order]
    matched = matched_units(parts, 1.0, generator())
    assert matched.units == weight_similarity.FEWEST_UNITS
    assert matched.weights == pytest.approx(256 / 600)
    assert matched.found[0, 2].item() == pytest.approx(1, abs=1e-5)
    assert matched.found[0, 1].item() == pytest.approx(matched.chance, abs=0.06)
    assert matched.chance < 0.3


def test_flat_cosine_of_equal_weights_is_one() -> None:
    parts = units()
    for part in parts:
        part[1] = 5 * part[0]
    found = flat_cosine(parts)
    assert found[0, 1].item() == pytest.approx(1, abs=1e-5)
    assert found[0, 2].abs() < 0.1
