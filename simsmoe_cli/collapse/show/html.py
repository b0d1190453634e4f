"""The HTML page of a report, with the verdict that `collapse/verdict.py` made."""

from __future__ import annotations

import json
from collections.abc import Sequence

from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show import tables
from simsmoe_cli.collapse.show.figures.style import Drawing
from simsmoe_cli.collapse.show.format import number
from simsmoe_cli.collapse.show.page import on_page, render
from simsmoe_cli.collapse.show.summary import SIGNS, TONES, about, glossary, tiles


def page(report: Report, drawings: Sequence[Drawing]) -> str:
    """The HTML of a report.

    Args:
        report: what to show.
        drawings: `report_figures` of it.
    """
    main, against = report.main, report.against
    figures = [on_page(drawing) for drawing in drawings if not drawing.alone]
    heat_maps = [figure for figure in figures if str(figure["name"]).startswith("cka-layer")]
    pairs = tables.pairs_table(report)
    of_all = sum(layer.pair_count for layer in main.layers)
    first = "exact copies first, then " if any(layer.copies for layer in main.layers) else ""
    return render(
        "report.html.j2",
        subject=main.subject,
        text=main.text,
        about=about(report),
        verdict={
            "headline": report.verdict.headline,
            "sentences": [
                {
                    "text": sentence.text,
                    "tone": sentence.tone,
                    "sign": SIGNS[sentence.tone],
                    "evidence": "; ".join(
                        f"{name.replace('_', ' ')}: {_evidence(value)}"
                        for name, value in sentence.evidence.items()
                    ),
                }
                for sentence in report.verdict.sentences
            ],
        },
        tone=TONES[report.verdict.level],
        tiles=tiles(main, against),
        evidence=[figure for figure in figures if figure not in heat_maps],
        heat_maps=heat_maps,
        layers=tables.layers_table(report),
        checkpoints=tables.checkpoints_table(report),
        pairs=pairs,
        pairs_said=f"{len(pairs.rows):,} of the {of_all:,} pairs, {first}by debiased CKA.",
        experts=tables.experts_table(report),
        glossary=glossary(main),
        settings=json.dumps(main.subject.settings, indent=2, ensure_ascii=False).split("\n"),
    )


def _evidence(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "undefined" if value is None else str(value)
