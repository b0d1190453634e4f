"""Several runs as table, JSON, page and curves."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from simsmoe_cli.compare.show import check_out, table, write_comparison
from simsmoe_cli.compare.statistics import Comparison, compare
from simsmoe_cli.errors import UserError
from tests.compare.made_runs import made_run, rows


def test_as_a_page_and_as_curves(two: Comparison, tmp_path: Path) -> None:
    class Words(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def handle_data(self, data: str) -> None:
            self.found.append(data.strip())

    write_comparison(two, tmp_path / "out" / "page.html")
    words = Words()
    words.feed((tmp_path / "out" / "page.html").read_text())
    for row in table(two):
        for cell in filter(None, row):
            assert cell in words.found
    write_comparison(two, tmp_path / "curves.svg")
    ElementTree.fromstring((tmp_path / "curves.svg").read_bytes())
    write_comparison(two, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".report-*"))
    with pytest.raises(UserError, match=r"unknown suffix '.htm'. Did you mean '.html'"):
        check_out(Path("page.htm"))


def test_runs_without_curves_have_a_page_all_the_same(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name) for name in "ab"]
    for run in runs:
        run.events.write_text("")
    nothing = compare(runs)
    assert rows(nothing)["status"] == ["in training, step 0"] * 2
    write_comparison(nothing, tmp_path / "page.html")
    assert "<svg" not in (tmp_path / "page.html").read_text()
    with pytest.raises(UserError, match="no curves yet"):
        write_comparison(nothing, tmp_path / "curves.svg")


def test_json_has_what_the_table_shows(two: Comparison) -> None:
    written = json.loads(json.dumps(two.to_json(), allow_nan=False))
    first, second = written["runs"]
    assert first["measures"] == two.runs[0].measures
    assert set(second["settings"]) == set(written["differing_settings"]) == set(two.differing)
    assert first["curves"]["train_bpc"]["steps"] == list(range(10, 101, 10))
    assert first["curves"]["cka"]["values"] == [pytest.approx(0.5)] * 2
