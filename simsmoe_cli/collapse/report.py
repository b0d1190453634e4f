"""A report as files: one HTML page that needs nothing else, the JSON, and figures for a paper.

The page loads nothing: styles, script and figures are in it, and a content security policy forbids
the rest. Whatever a name, a path or a recipe holds is escaped.

All files are made in a folder beside the destination and moved in when the last is whole, so a
report that fails leaves the earlier one as it was.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from simsmoe_cli.collapse import tables
from simsmoe_cli.collapse.compare import Comparison, table
from simsmoe_cli.collapse.figures import report_figures
from simsmoe_cli.collapse.findings import Report
from simsmoe_cli.collapse.plots import Drawing, inline_svg, png_file, svg_file
from simsmoe_cli.collapse.shown import clean, number
from simsmoe_cli.collapse.summary import SIGNS, TONES, about, glossary, tiles
from simsmoe_cli.collapse.training_figures import comparison_figure, comparison_kinds
from simsmoe_cli.errors import EXIT_DATA, UserError, nearest

FORMATS = ("html", "json", "png", "svg")
PAGE = "report.html"
DATA = "report.json"
FIGURES = "figures"


# A figure of a layer, of an earlier report with more layers or with another run.
_OF_A_LAYER = re.compile(r"cka-layer-[A-Za-z0-9.-]+\.(png|svg)")


def parse_formats(text: str) -> tuple[str, ...]:
    """The formats of a list with commas.

    Raises:
        UserError: there is none, or an unknown one.
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError("no format given", where="--format", hint=nearest("", FORMATS))
    for name in names:
        if name not in FORMATS:
            raise UserError(
                f"unknown format '{name}'", where="--format", hint=nearest(name, FORMATS)
            )
    return tuple(name for name in FORMATS if name in names)


def write_report(report: Report, out: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a report into a folder, which is made if need be.

    Args:
        report: what to write.
        out: the folder; an earlier report in it is replaced, other files stay.
        formats: of `FORMATS`.

    Returns:
        the files written.

    Raises:
        UserError: the folder cannot be written; what was in it is untouched.
    """
    as_files = bool(set(formats) & {"png", "svg"})
    drawings = report_figures(report, alone=as_files) if as_files or "html" in formats else []
    files: dict[str, bytes] = {}
    if "html" in formats:
        files[PAGE] = page(report, drawings).encode()
    if "json" in formats:
        files[DATA] = report.to_json().encode()
    for drawing in drawings:
        if "svg" in formats:
            files[f"{FIGURES}/{drawing.name}.svg"] = svg_file(drawing)
        if "png" in formats:
            files[f"{FIGURES}/{drawing.name}.png"] = png_file(drawing)
    written = place(files, out)
    if as_files:
        for path in (out / FIGURES).iterdir():
            if _OF_A_LAYER.fullmatch(path.name) and path not in written:
                path.unlink()
    return written


def place(files: Mapping[str, bytes], out: Path) -> list[Path]:
    """Put files into a folder, all of them or none.

    Args:
        files: content by path relative to `out`.
        out: made if need be.

    Raises:
        UserError: it cannot be written.
    """
    work: Path | None = None
    try:
        if out.exists() and not out.is_dir():
            raise UserError("not a folder", where=str(out), hint="Choose another --out.")
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".report-", dir=out.parent))
        for name, content in files.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for name in files:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(work / name, out / name)
    except OSError as error:
        raise UserError(
            f"cannot write here: {error.strerror}", where=str(out), hint="Choose another --out."
        ) from None
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    return [out / name for name in files]


def page(report: Report, drawings: Sequence[Drawing]) -> str:
    """The HTML of a report.

    Args:
        report: what to show.
        drawings: `report_figures` of it.
    """
    main, against = report.main, report.against
    on_page = [_on_page(drawing) for drawing in drawings if not drawing.alone]
    heat_maps = [figure for figure in on_page if str(figure["name"]).startswith("cka-layer")]
    pairs = tables.pairs_table(report)
    of_all = sum(1 for layer in main.layers for _ in layer.pairs())
    first = "exact copies first, then " if any(layer.copies for layer in main.layers) else ""
    return _template("report.html.j2").render(
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
        tiles=[_as_tile(*tile) for tile in tiles(main, against)],
        evidence=[figure for figure in on_page if figure not in heat_maps],
        heat_maps=heat_maps,
        layers=tables.layers_table(report),
        checkpoints=tables.checkpoints_table(report),
        pairs=pairs,
        pairs_said=f"{len(pairs.rows):,} of the {of_all:,} pairs, {first}by debiased CKA.",
        experts=tables.experts_table(report),
        glossary=glossary(main),
        settings=json.dumps(main.subject.settings, indent=2, ensure_ascii=False).split("\n"),
    )


def comparison_page(comparison: Comparison) -> str:
    """The HTML of several runs side by side."""
    header, *rows = table(comparison)
    return _template("compare.html.j2").render(
        names=[run.label for run in comparison.runs],
        notes=comparison.notes,
        header=header,
        rows=rows,
        figures=[
            _on_page(comparison_figure(comparison, [kind])) for kind in comparison_kinds(comparison)
        ],
    )


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write several runs side by side into one file.

    Args:
        comparison: what to show.
        out: a page (.html), or the curves alone (.svg, .png).

    Raises:
        UserError: there is no curve to draw, or the file cannot be written.
    """
    if out.suffix.lower() == ".html":
        content = comparison_page(comparison).encode()
    elif kinds := comparison_kinds(comparison):
        as_file = svg_file if out.suffix.lower() == ".svg" else png_file
        content = as_file(comparison_figure(comparison, kinds))
    else:
        raise UserError(
            "these runs have no curves yet",
            where=str(out),
            hint="Compare them when they have trained for some steps.",
            code=EXIT_DATA,
        )
    place({out.name: content}, out.parent)


def _evidence(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "undefined" if value is None else str(value)


def _as_tile(label: str, value: float | None, digits: int, below: str) -> dict[str, Any]:
    return {
        "label": label,
        "value": "" if value is None else value,
        "text": number(value, digits),
        "below": below,
    }


def _on_page(drawing: Drawing) -> dict[str, Any]:
    return {
        "name": drawing.name,
        "title": drawing.title,
        "caption": drawing.caption,
        "svg": Markup(inline_svg(drawing)),
    }


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("simsmoe_cli.collapse"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
    return environment.get_template(name)
