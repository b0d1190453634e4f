"""The page in a real browser: silent, self-contained, and readable on a desk, a phone, paper.

Chromium is asked over its own debugging protocol. Without one on this machine the test is skipped,
but on CI (CI=true) it fails: `.ci/run` installs it.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from simsmoe_cli.collapse.show.files import write_report
from tests.collapse.browser import Page, chromium, find_chromium
from tests.collapse.reports import report

NAME = "a run with a rather long name, as people give them <b>&amp;"

# Boxes of what has to be seen, in CSS pixels of the page.
BOXES = """
[...document.querySelectorAll("figure svg, figcaption, table, h1, h2, dd")].map((element) => {
  const box = element.getBoundingClientRect();
  return {tag: element.tagName, left: box.left, right: box.right, width: box.width,
          height: box.height, scrolled: !!element.closest(".scroll")};
})
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A tab in which the report is open."""
    program = find_chromium()
    if program is None:
        assert os.environ.get("CI") != "true", "CI has to have a Chromium"
        pytest.skip("no Chromium on this machine")
    folder = tmp_path_factory.mktemp("browser")
    (path,) = write_report(report(NAME, "other", layers=2), folder / "out", ("html",))
    with chromium(program, folder / "profile") as tab:
        tab.open(path)
        yield tab


def fold(page: Page, *, open: bool) -> None:
    page.evaluate(
        f"for (const it of document.querySelectorAll('details')) it.open = {str(open).lower()}"
    )


def boxes(page: Page) -> list[dict[str, float]]:
    fold(page, open=True)
    found: list[dict[str, float]] = page.evaluate(BOXES)
    assert sum(box["tag"] == "svg" for box in found) == 12
    return found


def test_no_complaint_and_no_request(page: Page) -> None:
    """But for the page itself and what is inside it."""
    assert page.complaints == []
    asked = [address for address in page.requests if not address.startswith("data:")]
    assert len(asked) == 1
    assert asked[0].endswith("/out/report.html")


def place(page: Page, selector: str) -> dict[str, float]:
    found: dict[str, float] = page.evaluate(
        f"document.querySelector('{selector}').getBoundingClientRect().toJSON()"
    )
    return found


def test_the_first_screen_answers(page: Page) -> None:
    """Verdict, a figure and every number for both runs, before anything is unfolded."""
    fold(page, open=False)
    page.resize(1280, 800)
    page.evaluate("scrollTo(0, 0)")
    for selector in (".verdict", "figure svg", ".tiles"):
        assert place(page, selector)["bottom"] <= 800
    page.resize(390, 844)
    assert place(page, "figure svg")["top"] <= 844
    words = page.evaluate("document.body.innerText.split(/\\s+/).length")
    assert words < 250


@pytest.mark.parametrize("width", [390, 1280])
def test_captions_have_two_lines_at_most(page: Page, width: int) -> None:
    page.resize(width, 800)
    fold(page, open=True)
    lines = page.evaluate(
        """[...document.querySelectorAll("figcaption")].map((caption) =>
             Math.round(caption.offsetHeight / parseFloat(getComputedStyle(caption).lineHeight)))"""
    )
    assert max(lines) <= 2


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_everything_is_seen_at_any_width(page: Page, width: int) -> None:
    page.resize(width, 800)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for box in boxes(page):
        assert box["width"] > 0
        assert box["height"] > 0
        assert box["left"] >= 0
        assert box["scrolled"] or box["right"] <= width


def test_figures_are_large_enough_to_read_on_a_phone(page: Page) -> None:
    """Letters of 6 points, the smallest drawn, are at least 6.5 pixels high."""
    page.resize(360, 740)
    for box in boxes(page):
        if box["tag"] == "svg":
            assert box["width"] >= 270
    sizes = page.evaluate(
        """[...document.querySelectorAll("figure svg text")].map((text) => {
             const place = text.getScreenCTM();
             return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(place.c, place.d);
           })"""
    )
    assert min(sizes) >= 6.5


def test_tables_scroll_inside_the_page(page: Page) -> None:
    page.resize(360, 740)
    fold(page, open=True)
    scrolls = page.evaluate(
        """[...document.querySelectorAll(".scroll")].map((box) => {
             box.scrollLeft = 50; return [box.scrollWidth > box.clientWidth, box.scrollLeft];
           })"""
    )
    assert [True, 50] in scrolls


def test_light_and_dark(page: Page) -> None:
    """Text, axes and ground change places; contrast is at least 4.5 to 1 for words."""
    shades = {}
    for dark in (False, True):
        page.dark(dark)
        shades[dark] = page.evaluate(
            """(() => {
                 const of = (selector, name) =>
                   getComputedStyle(document.querySelector(selector))[name];
                 return [of("figure", "backgroundColor"), of("figure h3", "color"),
                         of("figcaption", "color"), of("figure svg text", "fill")];
               })()"""
        )
        ground, *inks = (_luminance(colour) for colour in shades[dark])
        assert (ground < 0.2) == dark
        for ink in inks:
            low, high = sorted((ground, ink))
            assert (high + 0.05) / (low + 0.05) >= 4.5
    page.dark(False)


def _luminance(colour: str) -> float:
    """WCAG 2's relative luminance of an rgb(...)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_a_screenshot_has_the_heat_maps_in_it(page: Page, tmp_path: Path) -> None:
    page.resize(1280, 900)
    fold(page, open=True)
    page.evaluate("document.getElementById('figure-cka-layer-0').scrollIntoView()")
    (tmp_path / "page.png").write_bytes(page.screenshot())
    pixels = imread(tmp_path / "page.png")[..., :3]
    teal = (pixels[..., 0] < 0.3) & (pixels[..., 1] > 0.35) & (pixels[..., 2] > 0.45)
    assert teal.sum() > 500  # a CKA of about 0.4


def test_columns_sort_both_ways(page: Page) -> None:
    values = """
    (() => {
      const table = document.getElementById("table-experts");
      table.querySelectorAll("th button")[4].click();
      return [...table.tBodies[0].rows].map((row) => parseFloat(row.cells[4].dataset.value));
    })()
    """
    first, second = page.evaluate(values), page.evaluate(values)
    assert first == sorted(first, reverse=True)
    assert second == sorted(first)


def test_on_paper(page: Page) -> None:
    """A PDF of A4 pages with figures, what is folded is unfolded, and nothing is cut off."""
    page.resize(1280, 900)
    fold(page, open=False)
    content = page.print()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) >= 3
    # Each heat map is an image, and lines and letters of figures are drawn.
    assert len(re.findall(rb"/Subtype\s*/Image", content)) >= 6
    drawn = b"".join(
        _inflated(stream) for stream in re.findall(rb"stream\r?\n(.*?)endstream", content, re.S)
    )
    assert drawn.count(b" l\n") > 200
    assert page.evaluate("document.querySelector('details').open")
    page.send("Emulation.setEmulatedMedia", media="print")
    page.resize(700, 1000)
    for box in boxes(page):
        assert box["right"] <= 700, json.dumps(box)
    page.send("Emulation.setEmulatedMedia", media="")


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""
