"""The difference of two experts' outputs: of which pair, and its numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simsmoe_cli.collapse.measure.layers import measure, with_pair_of
from tests.collapse.planted import QUICK, Planted


def test_the_difference_is_that_of_the_two_outputs() -> None:
    planted = Planted()
    planted.copy(0, 0, 1)
    planted.experts[0].w_out.data[1] *= 2
    shown = measure(planted, QUICK).difference
    assert shown is not None
    assert shown.experts == (0, 1)
    inputs = torch.cat([part.layers[0].input_TD for part in planted.read(1024, 1024)])
    first, second = planted.dense(0, inputs)[:2].double()
    size = ((first.square() + second.square()).mean() / 2).sqrt()
    apart = (first - second).abs() / size
    assert shown.features == [(place, place + 1) for place in range(40)]
    assert np.array(shown.values) == pytest.approx(apart[shown.rows].numpy(), abs=1e-5)
    assert shown.mean == pytest.approx(apart.square().mean().sqrt().item(), rel=1e-5)
    assert shown.labels == [f"t{row}" for row in shown.rows]


def test_a_pair_of_dead_experts_is_not_the_one_to_show() -> None:
    planted = Planted()
    planted.copy(0, 0, 1)
    planted.bias_LN[0, 1] = -100.0
    shown = measure(planted, QUICK).difference
    assert shown is not None
    assert 1 not in shown.experts


def test_the_difference_of_the_pair_that_another_run_shows() -> None:
    planted, other = Planted(layers=2), Planted(layers=2, seed=5)
    planted.copy(0, 0, 1)
    other.copy(1, 2, 4)
    found, theirs = measure(planted, QUICK), measure(other, QUICK)
    made = with_pair_of(found, planted, QUICK, theirs)
    assert made.difference is not None
    assert (made.difference.layer, made.difference.experts) == (1, (2, 4))
    assert made.difference.cka == found.layers[1].cka[2][4]
    assert made.difference.rows == (theirs.difference.rows if theirs.difference else [])
    inputs = torch.cat([part.layers[1].input_TD for part in planted.read(1024, 1024)])
    first, second = planted.dense(1, inputs)[[2, 4]].double()
    size = ((first.square() + second.square()).mean() / 2).sqrt()
    apart = ((first - second) / size).square().mean().sqrt().item()
    assert made.difference.mean == pytest.approx(apart, rel=1e-5)
    assert made.model_copy(update={"difference": found.difference}) == found


def test_a_pair_that_is_missing_or_undefined_is_not_shown() -> None:
    planted, deeper = Planted(), Planted(layers=2)
    deeper.copy(1, 2, 4)
    found = measure(planted, QUICK)
    assert with_pair_of(found, planted, QUICK, measure(deeper, QUICK)) is found
    deeper.experts[1].w_out.data[4] = 0
    silent = measure(deeper, QUICK)
    alike = measure(Planted(layers=2), QUICK)
    assert alike.difference is not None
    shown = alike.difference.model_copy(update={"layer": 1, "experts": (2, 4)})
    asking = alike.model_copy(update={"difference": shown})
    assert with_pair_of(silent, deeper, QUICK, asking) is silent
