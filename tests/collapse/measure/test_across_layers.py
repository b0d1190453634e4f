"""Correlations over all pairs and over layers."""

from __future__ import annotations

import pytest

from simsmoe_cli.collapse.measure.layers import measure
from tests.collapse.planted import EXPERTS, QUICK, Planted


def test_sharing_and_depth_are_over_all_layers() -> None:
    planted = Planted(layers=4)
    for layer in range(1, 4):
        for expert in range(1, layer + 2):
            planted.copy(layer, 0, expert)
    overall = measure(planted, QUICK).overall
    assert overall.spearman.n == overall.pearson.n == 4 * EXPERTS * (EXPERTS - 1) // 2
    assert overall.depth.value == pytest.approx(1)
    assert overall.depth.n == 4
    assert overall.depth.null_low is not None
    assert overall.depth.null_low < -0.7
    assert overall.pearson.low is not None
    assert overall.pearson.high is not None
    assert -1 <= overall.pearson.low <= overall.pearson.high <= 1
