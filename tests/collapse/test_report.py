"""The JSON of a report: every number, undefined ones as null, and nothing else is read as one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from simsmoe_cli.collapse import report as file_schema
from simsmoe_cli.collapse.findings import Estimate
from simsmoe_cli.collapse.report import Report, Verdict
from simsmoe_cli.errors import EXIT_DATA, UserError
from tests.collapse.planted import EXPERTS


def test_a_report_survives_json(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report.to_json())
    assert Report.read(path) == report
    assert Report.from_json(report.to_json().encode()).main == report.findings[-1]


def test_undefined_is_null_and_never_nan(report: Report) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(report.to_json(), parse_constant=refuse)
    layer = found["findings"][0]["layers"][0]
    assert layer["cka"][4] == [None] * EXPERTS
    assert layer["effective_rank"][4] is None
    assert all(isinstance(value, float) for value in layer["cka"][0][:4])
    with pytest.raises(ValidationError):
        Estimate(value=math.nan, n=1, of="pairs")


def test_it_says_its_version_and_reads_no_other(report: Report) -> None:
    found = json.loads(report.to_json())
    assert found["schema_version"] == file_schema.SCHEMA
    found["schema_version"] = 99
    with pytest.raises(UserError, match="schema 99, and this simsmoe reads 1") as caught:
        Report.from_json(json.dumps(found), "there.json")
    assert caught.value.code == EXIT_DATA
    assert str(caught.value).startswith("there.json: ")


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", '{"schema_version": 1}', b"\xff\xfe"])
def test_what_is_no_report_is_refused(text: Any) -> None:
    with pytest.raises(UserError, match="not a collapse report"):
        Report.from_json(text)


def test_a_report_of_too_many_brackets_is_refused() -> None:
    with pytest.raises(UserError, match="not a collapse report"):
        Report.from_json("[" * 100_000)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the report"):
        Report.read(tmp_path / "none.json")


def test_a_verdict_holds_only_known_levels() -> None:
    with pytest.raises(ValidationError):
        Verdict.model_validate({"level": "fine", "headline": "", "sentences": []})
