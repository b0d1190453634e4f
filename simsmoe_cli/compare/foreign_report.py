"""A Hugging Face model beside runs: what the report of its folder says.

`compare` reads what training wrote, and a foreign model has no such thing; `collapse-report` has
written its report into the model's folder. Imports no torch.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from simsmoe_cli.collapse.findings import Findings, Report
from simsmoe_cli.errors import EXIT_DATA, UserError

REPORT = "report.json"


def report_of(folder: Path) -> Path | None:
    """The report in a folder, or in its folder report; None where there is none."""
    places = (folder / REPORT, folder / "report" / REPORT)
    return next((path for path in places if path.is_file()), None)


def read_reported(folder: Path) -> Findings:
    """What was measured of a Hugging Face model.

    Raises:
        UserError: there is no report of it, or one that cannot be read.
    """
    path = report_of(folder)
    if path is None:
        raise UserError(
            "no report of this model, whose numbers are compared",
            where=str(folder),
            hint=f"Write it: simsmoe collapse-report {folder} --text FILE.",
            code=EXIT_DATA,
        )
    return Report.read(path).main


def measures_of(found: Findings) -> dict[str, float | None]:
    """A report's numbers by the names of `compare.MEASURES`."""
    means = [layer.cka_mean.value for layer in found.layers if layer.cka_mean.value is not None]
    loads = [layer.load_cv for layer in found.layers if layer.load_cv is not None]
    dead = [layer.dead for layer in found.layers]
    return {
        "text_perplexity": found.text.perplexity,
        "cka": found.overall.cka_mean,
        "cka_worst_layer": max(means, default=None),
        "load_cv": statistics.fmean(loads) if loads else None,
        "dead_experts": None if None in dead else float(sum(map(len, filter(None, dead)))),
    }


def settings_of(found: Findings) -> dict[str, Any]:
    """A model's configuration by dotted name, and the text it was measured on."""
    return {**_flat(found.subject.settings), "report.text": found.text.corpus}


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        path = f"{prefix}{name}"
        flat |= _flat(item, f"{path}.") if isinstance(item, dict) else {path: item}
    return flat
