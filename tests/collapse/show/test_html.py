"""The report as files: page, JSON and terminal agree, escape what they show, and land whole."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.files import write_report
from simsmoe_cli.collapse.show.html import page as made_page
from simsmoe_cli.collapse.show.terminal import show
from tests.collapse.reports import findings, report

EVIL = "</title><script>alert('x')</script>\x1b[31m[red]$x$&\u202e"


class Page(HTMLParser):
    """The parts of a page that tests look at."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[tuple[str, str]]]] = {}
        self.text: list[str] = []
        self._table = ""
        self._cell: list[str] | None = None
        self._value = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "table":
            self._table = str(given.get("id"))
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self._cell, self._value = [], str(given.get("data-value"))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[self._table][-1].append(("".join(self._cell).strip(), self._value))
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._cell is not None:
            self._cell.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on a run that is called by an evil name, against a harmless one."""
    out = tmp_path_factory.mktemp("report") / "out"
    write_report(evil(), out, ("html", "json"))
    return out


def evil() -> Report:
    made = report(EVIL, "other", layers=2).model_dump()
    made["findings"][0]["subject"]["settings"] = {"</pre><img src=x>": "<b>", "path": EVIL}
    made["findings"][0]["text"]["corpus"] = "<i>corpus</i>"
    made["verdict"]["headline"] += EVIL
    return Report.model_validate(made)


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page((written / "report.html").read_text())


def terminal(made: Report, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False, highlight=False)
    show(made, console, [])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# Agreement


def test_page_json_and_terminal_agree(written: Path, page: Page) -> None:
    read = Report.read(written / "report.json")
    assert read == evil()
    shown = terminal(read)
    body = page.tables["table-layers"][1:]
    assert len(body) == len(read.main.layers)
    for layer, cells in zip(read.main.layers, body, strict=True):
        mean = layer.cka_mean.value
        assert mean is not None
        heads = [text for text, _ in page.tables["table-layers"][0]]
        text, value = cells[heads.index("mean CKA")]
        assert float(value) == mean
        assert text == f"{mean:.3f}"
        text, value = cells[heads.index("load CV")]
        assert float(value) == layer.load_cv
        line = rf"\n +{layer.layer} +{mean:.3f} +.*{re.escape(text)} +{len(layer.dead)} *\n"
        assert re.search(line, shown)
    most = max(
        (layer.cka[i][j] or 0, layer.layer, i, j)
        for layer in read.main.layers
        for i, j in layer.pairs()
    )
    cka, number, i, j = most
    first = page.tables["table-pairs"][1]
    assert [text for text, _ in first[:3]] == [str(number), f"{i} and {j}", f"{cka:.3f}"]
    assert float(first[2][1]) == cka
    assert re.search(rf"\n +{number} +{i} and {j} +{cka:.3f} ", shown)


def test_every_number_of_a_table_is_of_the_json(page: Page) -> None:
    """Each shown number is its exact value rounded, and each value that is no mean is measured."""
    known = {
        value
        for found in (evil().main, evil().against)
        for value in _numbers(found.model_dump() if found else {})
    }
    for cells in page.tables["table-pairs"][1:]:
        for text, value in cells:
            if re.fullmatch(r"-?\d+\.\d{3}", text):
                assert float(value) in known
                assert abs(float(text) - float(value)) <= 0.0005 + 1e-12
    assert len(page.tables["table-experts"]) == 1 + 2 * 4


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, float) else []


def test_undefined_is_called_so() -> None:
    estimate = {"value": None, "n": 0, "of": "pairs"}
    cka = [[1.0 if i == j else None for j in range(4)] for i in range(4)]
    made = report(layers=1, cka=cka, cka_mean=estimate, load_cv=None)
    text = Page(made_page(made, []))
    cells = text.tables["table-layers"][1]
    assert ("undefined", "") in cells
    assert re.search(r"\n +0 +undefined +undefined ", terminal(made))
    assert '"value": null' in made.to_json()


def test_all_checkpoints_have_a_row() -> None:
    made = report(layers=1).model_dump()
    earlier = json.loads(json.dumps(made["findings"][0]))
    earlier["subject"]["step"] = 250
    made["findings"].insert(0, earlier)
    both = Report.model_validate(made)
    rows = Page(made_page(both, [])).tables["table-checkpoints"]
    assert [row[0][0] for row in rows] == ["step", "250", "500"]
    assert re.search(r"\n +250 +0\.400 ", terminal(both))


def test_a_report_of_an_earlier_version_is_shown() -> None:
    """Without costs, and a verdict of sentences alone."""
    old = {
        "schema_version": 1,
        "findings": [findings("old", layers=2, experts=4, seed=0, alike=0.4)],
        "against": None,
        "verdict": {
            "level": "partly alike",
            "headline": "Partly collapsed: the experts are similar in 2 of 2 layers.",
            "sentences": [{"text": "No expert is dead.", "tone": "good"}],
        },
    }
    made = Report.from_json(json.dumps(old))
    shown = "".join(Page(made_page(made, [])).text)
    assert "The experts are similar in 2 of 2 layers." in shown
    assert "No expert is dead." in shown
    assert "least missed" not in shown
    assert "REAP saliency" not in shown
    assert "Partly collapsed: the experts are similar" in terminal(made)


# What a name may hold


def test_markup_in_names_is_text(written: Path, page: Page) -> None:
    content = (written / "report.html").read_text()
    assert content.count("<script>") == 1
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "img" not in {tag for tag, _ in page.tags}
    assert "<i>corpus" not in content
    assert "\x1b" not in content
    assert "\u202e" not in content
    assert "<script>alert('x')</script>" in "".join(page.text)


def test_markup_in_names_is_text_in_a_terminal() -> None:
    shown = terminal(evil())
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "<script>alert('x')</script>\\x1b[31m[red]$x$&\\u202e" in shown


# One page, for everyone


def test_the_page_loads_nothing(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed")
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png")), (tag, value)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_identifiers_are_unique_and_links_lead_somewhere(page: Page) -> None:
    identifiers = [a["id"] for _, a in page.tags if "id" in a]
    assert len(set(identifiers)) == len(identifiers)
    for _, attributes in page.tags:
        link = attributes.get("href")
        assert link is None or link.startswith("data:") or link[1:] in identifiers


def test_who_does_not_see_gets_words(page: Page) -> None:
    figures = [a for tag, a in page.tags if tag == "svg"]
    assert len(figures) == 8 + 2 * 2
    for attributes in figures:
        assert attributes.get("role") == "img"
        assert len(str(attributes.get("aria-label"))) > 50
    heads = [a for tag, a in page.tags if tag == "th"]
    assert heads
    assert all(a.get("scope") in ("col", "row") for a in heads)
    assert [tag for tag, _ in page.tags].count("h1") == 1
    assert ("html", {"lang": "en"}) in page.tags
