"""The panel of shared tokens."""

from __future__ import annotations

import numpy as np

from simsmoe_cli.monitor.panels.shared_tokens import index_of


def test_a_pair_has_the_index_that_the_cloud_gives_it() -> None:
    rows, columns = np.triu_indices(6, 1)
    pairs = list(zip(rows.tolist(), columns.tolist(), strict=True))
    assert [index_of(6, pair) for pair in pairs] == list(range(15))
    assert index_of(6, (4, 2)) == pairs.index((2, 4))
