"""CKA on the rows sent to both of two experts."""

from __future__ import annotations

import itertools

import pytest
import torch

from simsmoe_cli.collapse.measure.cka_on_shared_tokens import cka_of_shared
from simsmoe_cli.similarity.cka import debiased_linear_cka
from simsmoe_cli.similarity.shared import FEWEST_SHARED
from tests.collapse.measure.made_outputs import generator, related


def test_cka_on_shared_rows_is_that_of_those_rows() -> None:
    outputs = related(5, 300, 40, 0.7) * torch.tensor([1.0, 1e-3, 50, 1, 1])[:, None, None] + 3
    index = torch.randint(0, 5, (300, 2), generator=generator(2))
    index[:40] = torch.tensor([0, 1])
    index[index == 4] = torch.where(torch.arange(300)[:, None] % 9 == 0, 4, 5).expand_as(index)[
        index == 4
    ]
    outputs[3, (index == 3).any(1)] = 2.0
    found = cka_of_shared(outputs, index)
    sent = torch.stack([(index == expert).any(1) for expert in range(5)])
    for i, j in itertools.combinations(range(5), 2):
        both = sent[i] & sent[j]
        expected = debiased_linear_cka(outputs[i, both], outputs[j, both]).item()
        if both.sum() < FEWEST_SHARED or 3 in (i, j):
            assert found[i, j].isnan()
        else:
            assert found[i, j].item() == pytest.approx(expected, abs=1e-4)
    fewer = cka_of_shared(outputs, index, products=40 * 4e4)
    assert not fewer[0, 1].isnan()
    assert fewer[0, 1].item() == pytest.approx(found[0, 1].item(), abs=0.3)
