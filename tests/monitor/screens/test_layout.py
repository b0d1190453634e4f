"""Which panels are seen at once."""

from __future__ import annotations

import pytest

from simsmoe_cli.monitor.screens.layout import pages


@pytest.mark.parametrize("width", [20, 46, 80, 120, 140, 200, 400])
@pytest.mark.parametrize("height", [3, 10, 24, 40, 60, 120])
def test_every_panel_has_one_page(width: int, height: int) -> None:
    found = pages(7, width, height)
    assert sorted(panel for page in found for panel in page.panels) == list(range(7))
    for page in found:
        assert (page.rows - 1) * page.columns < len(page.panels) <= page.rows * page.columns
        assert 1 <= page.last_span <= page.columns
