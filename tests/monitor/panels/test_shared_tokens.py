"""The panel of shared tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simsmoe_cli.monitor.panels.shared_tokens import PANEL, index_of
from tests.monitor.views import drawn, view_of


def test_a_pair_has_the_index_that_the_cloud_gives_it() -> None:
    rows, columns = np.triu_indices(6, 1)
    pairs = list(zip(rows.tolist(), columns.tolist(), strict=True))
    assert [index_of(6, pair) for pair in pairs] == list(range(15))
    assert index_of(6, (4, 2)) == pairs.index((2, 4))


def test_the_detail_counts_the_pairs_that_are_defined(runs: Path) -> None:
    assert drawn(PANEL, view_of(runs / "first", layer=3))[-1].endswith("(21 of 28 pairs defined)")


def test_the_pair_under_the_cursor_is_marked_and_told(runs: Path) -> None:
    lines = drawn(PANEL, view_of(runs / "first", layer=1, pair=(5, 2)))
    assert sum(line.count("◆") for line in lines) == 1
    assert "◆" in lines[0]  # its CKA is 0.991
    assert lines[-1] == "5 and 2: CKA 0.991, 8.69% of tokens shared"
