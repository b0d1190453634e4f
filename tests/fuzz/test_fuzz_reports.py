"""Damaged and edited report.json: read as it was, or refused with one line; what is read is shown.

Whatever the schema lets through must be fit to be shown: page, tables and terminal are made of it.
"""

from __future__ import annotations

import io
import json
import random

import pytest
from rich.console import Console

from simsmoe_cli.collapse.fail_above import fail_above
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.html import page
from simsmoe_cli.collapse.show.terminal import show
from simsmoe_cli.collapse.verdict.judge import judge
from simsmoe_cli.errors import EXIT_COLLAPSE, EXIT_DATA, UserError
from tests.collapse.reports import report
from tests.fuzz.driving import CONTROLS, cases, damaged, disturbed

CASES = 200


def require_one_line(error: UserError, code: int) -> None:
    assert error.code == code
    assert str(error).isprintable()
    assert len(str(error)) < 1000


def shown(found: Report) -> None:
    """Judge it, hold it against a limit, and make the page and the terminal's text of it."""
    judged = found.model_copy(update={"verdict": judge(found.main, found.against)})
    try:
        fail_above(found.main, 0.5)
    except UserError as error:
        require_one_line(error, EXIT_COLLAPSE)
    for each in (found, judged):
        text = page(each, [])
        assert not CONTROLS.search(text)
        assert "<script>alert" not in text
        printed = io.StringIO()
        show(each, Console(file=printed, width=120), [])
        assert not CONTROLS.search(printed.getvalue())


def read(text: str | bytes) -> Report | None:
    """The report, or None where it is refused with one line."""
    try:
        return Report.from_json(text, "report.json")
    except UserError as error:
        require_one_line(error, EXIT_DATA)
        return None


@pytest.mark.parametrize("edited", [True, False])
def test_a_damaged_report_is_refused_or_shown(edited: bool) -> None:
    whole = report("a <script>alert(1)</script> \u202eb", "other", layers=2, experts=3)
    shown(whole)
    text = whole.to_json()
    understood = 0
    for rng in cases(CASES, seed=7 + edited):
        found = read(_edited(text, rng) if edited else damaged(text.encode(), rng))
        if found is not None:
            understood += 1
            shown(found)
    assert (
        understood
    )  # a digit that is changed, or a number replaced, is none of a schema's business


def _edited(text: str, rng: random.Random) -> str:
    value = json.loads(text)
    for _ in range(rng.randrange(1, 3)):
        value = disturbed(value, rng)
    return json.dumps(value)
