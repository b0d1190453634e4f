"""Findings and a report of planted models, measured once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simsmoe_cli.collapse.findings import Findings
from simsmoe_cli.collapse.measure import cka
from simsmoe_cli.collapse.measure.layers import measure
from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.verdict.judge import judge
from tests.collapse.planted import QUICK, Planted
from tests.collapse.varied import LAYERS


@pytest.fixture(scope="module", autouse=True)
def few_draws(request: pytest.FixtureRequest) -> Iterator[None]:
    """Null distributions of ten values each: they take most of the time of a small model's report.

    Modules that test them set `ALL_DRAWS`.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "ALL_DRAWS", False):
            patch.setattr(cka, "NULL_DRAWS", 10)
            patch.setattr(cka, "RBF_NULL_DRAWS", 10)
        yield


@pytest.fixture(scope="session")
def base() -> Findings:
    return measure(Planted(LAYERS), QUICK)


@pytest.fixture(scope="session")
def report() -> Report:
    """Of a model with an expert that is undefined."""
    planted = Planted()
    planted.experts[0].w_out.data[4] = 0
    found = measure(planted, QUICK)
    return Report(findings=[found, found], against=found, verdict=judge(found, found))
