"""The HTML page of a report: first a screen that answers, then the evidence, folded.

The screen holds the verdict's three sentences, one figure and the first numbers. Each section below
it has the figures that name it (`Drawing.section`) and its tables.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from simsmoe_cli.collapse.report import Report, Sentence
from simsmoe_cli.collapse.show.evidence import facts
from simsmoe_cli.collapse.show.page import render
from simsmoe_cli.collapse.show.summary import SIGNS, TONES, about, glossary, tiles
from simsmoe_cli.collapse.show.tables.cost import merging_table, pair_costs_table
from simsmoe_cli.collapse.show.tables.routing import (
    experts_table,
    favourites_table,
    routing_table,
)
from simsmoe_cli.collapse.show.tables.similarity import (
    checkpoints_table,
    layers_table,
    pairs_table,
)
from simsmoe_cli.collapse.show.tables.table import Table

SECTIONS = {
    "similar": (
        "Which experts are similar",
        "A CKA of 1 is the same representation up to rotation and scale, 0 is unrelated. Light is "
        "similar. Experts are numbered from 0.",
    ),
    "cost": (
        "What the model could do without",
        "The same text, with one expert left out, or two experts made one.",
    ),
    "routing": (
        "Who gets which tokens",
        "Load, and how the router decides. A load of 1 is a fair share of the tokens.",
    ),
    "training": ("How it came about", "Similarity and score over the steps of the training."),
}


def page(report: Report, figures: Sequence[dict[str, Any]]) -> str:
    """The HTML of a report.

    Args:
        report: what to show.
        figures: its figures, each as `on_page` gives it.
    """
    main = report.main
    verdict = report.verdict
    label, _, headline = verdict.headline.partition(": ")
    return render(
        "report.html.j2",
        subject=main.subject,
        about=about(report),
        label=label if headline else "Verdict",
        verdict=[
            headline[:1].upper() + headline[1:] if headline else verdict.headline,
            *(sentence for sentence in (verdict.cost, verdict.advice) if sentence),
        ],
        tone=TONES[verdict.level],
        tiles=tiles(main, report.against),
        first=[figure for figure in figures if figure["section"] == "first"],
        sections=_sections(report, figures),
        sentences=[_with_facts(sentence) for sentence in verdict.sentences],
        glossary=glossary(main),
        settings=json.dumps(main.subject.settings, indent=2, ensure_ascii=False).split("\n"),
    )


def _sections(report: Report, figures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sections that have anything to show."""
    shown: dict[str, list[Table | None]] = {
        "similar": [layers_table(report), pairs_table(report)],
        "cost": [merging_table(report), pair_costs_table(report)],
        "routing": [routing_table(report), experts_table(report), favourites_table(report)],
        "training": [checkpoints_table(report)],
    }
    made = []
    for id, (title, lead) in SECTIONS.items():
        of_it = [figure for figure in figures if figure["section"] == id]
        maps = [figure for figure in of_it if figure["name"].startswith("cka-layer")]
        others = [figure for figure in of_it if figure not in maps]
        of_section = [table for table in shown[id] if table is not None]
        if of_it or of_section:
            words = {"id": id, "title": title, "lead": lead}
            made.append({**words, "figures": others, "maps": maps, "tables": of_section})
    return made


def _with_facts(sentence: Sentence) -> dict[str, Any]:
    return {
        "text": sentence.text,
        "tone": sentence.tone,
        "sign": SIGNS[sentence.tone],
        "facts": facts(sentence),
    }
