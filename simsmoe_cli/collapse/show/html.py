"""A report as files: one HTML page that needs nothing else, the JSON, and figures for a paper.

The page loads nothing: styles, script and figures are in it, and a content security policy forbids
the rest. Whatever a name, a path or a recipe holds is escaped.

All files are made in a folder beside the destination, which takes its place when the last is whole:
a report that fails, or is killed, leaves the earlier one as it was.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from simsmoe_cli.collapse.findings import Report
from simsmoe_cli.collapse.show import tables
from simsmoe_cli.collapse.show.figures.similarity import report_figures
from simsmoe_cli.collapse.show.figures.style import Drawing, inline_svg, png_file, svg_file
from simsmoe_cli.collapse.show.figures.training import comparison_figure, comparison_kinds
from simsmoe_cli.collapse.show.format import clean, number
from simsmoe_cli.collapse.show.summary import SIGNS, TONES, about, glossary, tiles
from simsmoe_cli.compare.runs import Comparison, table
from simsmoe_cli.errors import EXIT_DATA, UserError, nearest
from simsmoe_cli.files import atomic

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


def check_destination(out: Path) -> None:
    """Find out whether a folder can be written, before hours are spent on what goes there.

    Raises:
        UserError: it is a file, or nothing can be made in it or in its place.
    """
    place = out.absolute()
    with _clear_os_errors(out):
        while True:
            try:
                mode = place.stat().st_mode
                break
            except FileNotFoundError:
                place = place.parent
        if not stat.S_ISDIR(mode):
            raise UserError("not a folder", where=str(out), hint="Choose another --out.")
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


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
    with _clear_os_errors(out):
        _place(files, out, as_files)
    return [out / name for name in files]


def _place(files: Mapping[str, bytes], out: Path, figures_too: bool) -> None:
    """Put the files of a report (content by path relative to `out`) into a folder.

    The folder is replaced by a new one, all at once, where nothing but an earlier report is in it.
    One that holds other things, or that somebody works in, is kept, and its files are replaced one
    by one, the page last.
    """
    check_destination(out)
    there = [path.relative_to(out) for path in out.rglob("*") if not path.is_dir()]
    kept = [
        path
        for path in there
        if path.as_posix() not in files
        and not (figures_too and path.parts[0] == FIGURES and _OF_A_LAYER.fullmatch(path.name))
    ]
    if all(_of_a_report(path) for path in there) and not _in_use(out):
        with atomic.whole_folder(out, replace=True) as partial:
            for name, content in files.items():
                _make(partial / name).write_bytes(content)
            for path in kept:
                shutil.copy2(out / path, _make(partial / path), follow_symlinks=False)
        return
    for name in sorted(files, key=lambda name: (name == PAGE, name)):
        atomic.write(_make(out / name), files[name])
    for path in set(there) - set(kept):
        if path.as_posix() not in files:
            (out / path).unlink()


def _make(path: Path) -> Path:
    """The path, in a folder that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _of_a_report(path: Path) -> bool:
    """Whether a report writes, or wrote, a file of this path."""
    if len(path.parts) == 1:
        return path.name in (PAGE, DATA)
    return len(path.parts) == 2 and path.parts[0] == FIGURES and path.suffix in (".png", ".svg")


def _in_use(folder: Path) -> bool:
    """Whether a folder cannot be moved, or this process stands in it."""
    place = folder.resolve()
    movable = os.access(place.parent, os.W_OK | os.X_OK) and not os.path.ismount(folder)
    return not movable or Path.cwd().is_relative_to(place)


@contextlib.contextmanager
def _clear_os_errors(out: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write here: {error.strerror}", where=str(out), hint="Choose another --out."
        ) from None


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
    with _clear_os_errors(out):
        atomic.write(_make(out), content)


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
