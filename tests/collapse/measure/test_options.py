"""What costs too much is sampled, and it is said how much."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simsmoe_cli.collapse.measure.layers import measure
from tests.collapse.planted import QUICK, Planted


def test_a_layer_too_costly_to_compare_whole_is_sampled_and_says_so() -> None:
    planted = Planted()
    planted.copy(0, 0, 1, permuted=True)
    whole = measure(planted, QUICK).layers[0]
    bounded = measure(planted, replace(QUICK, products=1e6, matching=1e3))
    layer = bounded.layers[0]
    assert (whole.cka_row_pairs, whole.weight_matched_units) == (1, 12)
    assert layer.cka_row_pairs == pytest.approx(3 / 16)
    assert "19% of the pairs of rows" in layer.cka_mean.method
    assert layer.weight_matched_units == 4
    assert bounded.settings.rbf_rows < 100
    assert bounded.settings.rank_rows < 100
    assert layer.cka[0][1] == pytest.approx(1, abs=1e-3)
    assert layer.weight_matched[0][1] == pytest.approx(1, abs=1e-4)
    for i, j in layer.pairs():
        assert layer.cka[i][j] == pytest.approx(whole.cka[i][j], abs=0.05)
    assert layer.cka_null.quantile_95 is not None
    assert layer.cka_null.quantile_95 < 0.05
