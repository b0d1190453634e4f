"""Which windows of a text are read, and on which similarity is measured."""

from __future__ import annotations

import numpy as np
import torch

from simsmoe_cli.collapse.sources.evaluation_windows import evaluation_windows, tokens_per_batch


def test_windows_measure_evenly_spread_blocks_and_read_none_twice() -> None:
    tokens = np.arange(10_001, dtype=np.uint16)
    parts = list(evaluation_windows(tokens, 50, 4000, 1000, False, 400))
    seen = torch.cat([inputs.flatten() for inputs, _, _ in parts])
    assert len(seen) == 4000 == len(seen.unique())
    assert all(torch.equal(targets, inputs + 1) for inputs, targets, _ in parts)
    assert max(inputs.numel() for inputs, _, _ in parts) <= 400
    rows = torch.cat([inputs for inputs, _, measured in parts if measured])
    assert rows.shape == (20, 50)
    gaps = rows[:, 0].sort().values.diff()
    assert gaps.max() < 2 * gaps.min()
    assert rows[:, 0].max() - rows[:, 0].min() > 9000


def test_a_large_vocabulary_means_fewer_tokens_at_once() -> None:
    assert tokens_per_batch(205) == 8192
    assert tokens_per_batch(267_735) * 267_735 <= 2**27
