"""Writes a report as files: one self-contained HTML page, the JSON, and figures for a paper.

All files are written to a new folder next to the destination, which replaces the destination when
it is complete. So a report that fails, or is killed, leaves the earlier one unchanged.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from simsmoe_cli.collapse.report import Report
from simsmoe_cli.collapse.show.figures.similarity import report_figures
from simsmoe_cli.collapse.show.figures.style import (
    FIGURE_FORMATS,
    Drawing,
    figure_file,
    own_settings,
    style,
)
from simsmoe_cli.collapse.show.html import page
from simsmoe_cli.collapse.show.page import on_page
from simsmoe_cli.errors import UserError, nearest
from simsmoe_cli.files import atomic

FORMATS = ("html", "json", *FIGURE_FORMATS)
PAGE = "report.html"
DATA = "report.json"
FIGURES = "figures"


# A figure of a layer, of an earlier report with more layers or with another run.
_OF_A_LAYER = re.compile(r"cka-layer-[A-Za-z0-9.-]+\.(pdf|png|svg)")


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
    """Find out whether a folder can be written, before hours are spent on measuring.

    Raises:
        UserError: it is a file, or it cannot be created or written to.
    """
    existing = out.absolute()  # the folder, or the nearest above that exists
    with clear_os_errors(out):
        while True:
            try:
                mode = existing.stat().st_mode
                break
            except FileNotFoundError:
                existing = existing.parent
        if not stat.S_ISDIR(mode):
            raise UserError("not a folder", where=str(out), hint="Choose another --out.")
        # Making a folder is what tells: a file system without folders of its users lets root ask.
        with tempfile.TemporaryDirectory(prefix=".simsmoe-", dir=existing):
            pass


def write_report(
    report: Report,
    out: Path,
    formats: Sequence[str] = FORMATS,
    *,
    figure_style: str | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> list[Path]:
    """Write a report into a folder, which is made if need be.

    Args:
        report: what to write.
        out: the folder; an earlier report in it is replaced, other files stay.
        formats: of `FORMATS`.
        figure_style: for the files of figures, a style of matplotlib or a file of one.
        on_progress: receives the share that is done, 0 to 1.

    Returns:
        the files written.

    Raises:
        UserError: there is no such style, or the folder cannot be written; what was in it is
            untouched.
    """
    wanted = [form for form in FIGURE_FORMATS if form in formats]
    settings = own_settings(figure_style) if wanted else {}
    shown: list[Drawing] = []
    alone: list[Drawing] = []
    if "html" in formats:
        with style():
            shown = report_figures(report, files=False)
    if wanted:
        with style(settings):
            alone = report_figures(report)
    steps = len(shown) + len(alone) * len(wanted)
    files: dict[str, bytes] = {}
    figures = []
    for drawing in shown:
        figures.append(on_page(drawing))
        on_progress(len(figures) / steps)
    if "html" in formats:
        files[PAGE] = page(report, figures).encode()
    if "json" in formats:
        files[DATA] = report.to_json().encode()
    for number, (drawing, form) in enumerate(itertools.product(alone, wanted), len(shown) + 1):
        files[f"{FIGURES}/{drawing.name}.{form}"] = figure_file(drawing, form, settings)
        on_progress(number / steps)
    with clear_os_errors(out):
        _place(files, out, bool(wanted))
    return [out / name for name in files]


def _place(files: Mapping[str, bytes], out: Path, figures_too: bool) -> None:
    """Put the files of a report (content by path relative to `out`) into a folder.

    The folder is replaced by a new one, all at once, where nothing but an earlier report is in it.
    A folder that holds other files, or that is in use, is kept, and its files are replaced one by
    one, the page last.
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
    """The path, after its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _of_a_report(path: Path) -> bool:
    """Whether a report writes, or wrote, a file of this path."""
    if len(path.parts) == 1:
        return path.name in (PAGE, DATA)
    return len(path.parts) == 2 and path.parts[0] == FIGURES and path.suffix[1:] in FIGURE_FORMATS


def _in_use(folder: Path) -> bool:
    """Whether a folder cannot be moved, or is the working directory of this process."""
    resolved = folder.resolve()
    movable = os.access(resolved.parent, os.W_OK | os.X_OK) and not os.path.ismount(folder)
    return not movable or Path.cwd().is_relative_to(resolved)


@contextlib.contextmanager
def clear_os_errors(out: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write here: {error.strerror}", where=str(out), hint="Choose another --out."
        ) from None
