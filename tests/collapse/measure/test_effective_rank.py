"""Effective rank of outputs with known singular values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simsmoe_cli.collapse.measure.effective_rank import effective_rank
from tests.collapse.measure.made_outputs import generator


def test_effective_rank_counts_equal_directions() -> None:
    basis = torch.linalg.qr(torch.randn(200, 16, generator=generator()))[0]
    basis = torch.linalg.qr(basis - basis.mean(0))[0]
    three = basis.clone()
    three[:, 3:] = 0
    constant = torch.ones(200, 16)
    found = effective_rank(torch.stack([three, basis, constant]) + 5)
    assert found[0].item() == pytest.approx(3, abs=0.01)
    assert found[1].item() == pytest.approx(16, abs=0.01)
    assert found[2].isnan()


@pytest.mark.parametrize("shape", [(40, 12), (20, 50)])
def test_effective_rank_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    rows = torch.randn(1, *shape, generator=generator()) * torch.linspace(0.1, 3, shape[1])
    centred = (rows[0] - rows[0].mean(0)).double().numpy()
    share = np.linalg.svd(centred, compute_uv=False)
    share = share[share > 1e-9] / share.sum()
    expected = np.exp(-(share * np.log(share)).sum())
    assert effective_rank(rows)[0].item() == pytest.approx(expected, rel=1e-4)
