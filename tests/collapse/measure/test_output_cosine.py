"""Mean cosine some rows at a time: that of all rows at once."""

from __future__ import annotations

import pytest
import torch

from simsmoe_cli.collapse.measure import output_cosine
from simsmoe_cli.collapse.measure.block_sums import Standardised
from simsmoe_cli.collapse.measure.output_cosine import mean_cosine
from simsmoe_cli.similarity.agreement import pairwise_cosine
from tests.collapse.measure.made_outputs import related


def test_cosines_some_rows_at_a_time_are_those_of_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs = related(4, 70, 9, 1.0)
    outputs[1, 3] = 0
    outputs[2] = 5.0
    monkeypatch.setattr(output_cosine, "_CHUNK", 4 * 9 * 16)
    found = mean_cosine(Standardised(outputs))
    assert torch.allclose(found.float(), pairwise_cosine(outputs), atol=1e-6, equal_nan=True)
