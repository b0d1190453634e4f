"""How far outputs are apart: copies, scaled and rotated ones, strangers, and what is undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from simsmoe_cli.collapse.measure import output_difference
from simsmoe_cli.collapse.measure.block_sums import Standardised
from simsmoe_cli.collapse.measure.output_difference import relative_difference
from tests.collapse.measure.made_outputs import generator


def test_it_sees_scale_and_rotation_and_is_computed_some_rows_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = torch.randn(300, 16, generator=generator())
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator(1))).Q
    stranger = torch.randn(300, 16, generator=generator(2))
    outputs = torch.stack([first, first, 3 * first, first @ turn, stranger])
    monkeypatch.setattr(output_difference, "_CHUNK", 5 * 16 * 64)
    found = relative_difference(Standardised(outputs)).numpy()
    x = outputs.double().numpy()
    for i in range(5):
        for j in range(5):
            both = (np.mean(x[i] ** 2) + np.mean(x[j] ** 2)) / 2
            direct = math.sqrt(np.mean((x[i] - x[j]) ** 2) / both)
            assert found[i, j] == pytest.approx(direct, abs=1e-3)
    assert found[0, 1] < 1e-3
    assert found[0, 2] == pytest.approx(2 / math.sqrt(5), abs=1e-3)
    assert found[0, 3] > 1


def test_it_is_undefined_where_an_output_is_not_finite() -> None:
    outputs = torch.randn(3, 40, 4, generator=generator())
    outputs[1, 5, 2] = math.nan
    found = relative_difference(Standardised(outputs))
    assert found[0, 1].isnan()
    assert found[0, 2].isfinite()
