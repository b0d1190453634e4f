"""The folder of a sweep: runs, their logs, `sweep.json`, which says where the results are, and
`failed.json`, which says what failed. That of a search holds runs, logs and a study of optuna's.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simsmoe_cli.errors import DataError, UserError, printable
from simsmoe_cli.files import atomic
from simsmoe_cli.files.untrusted import Unreadable, read_json
from simsmoe_cli.run.find import is_run
from simsmoe_cli.run.folder import SWEEP_MARK

FAILED, STUDY, RESULTS = "failed.json", "study.db", "results.json"


@dataclass(frozen=True)
class Found:
    """What a name or path means.

    Attributes:
        kind: a sweep's or a search's folder, or a file of results.
        path: of the folder or the file.
    """

    kind: Literal["sweep", "search", "results"]
    path: Path


@dataclass(frozen=True)
class Failures:
    """Which trainings of a sweep failed when it was last carried out.

    Attributes:
        reasons: by name.
        left: how many trainings had not ended yet.
    """

    reasons: Mapping[str, str]
    left: int = 0


def mark(folder: Path, results: Path) -> None:
    """Say in a sweep's folder where the file of its results is: relative if it is in there."""
    results, own = results.resolve(), folder.resolve()
    path = results.relative_to(own) if results.is_relative_to(own) else results
    content = json.dumps({"schema": 1, "results": str(path)})
    atomic.write(folder / SWEEP_MARK, content + "\n")


def find_sweep(given: str | Path, runs_dir: Path) -> Found | None:
    """The sweep, search or file of results with this name or path; None if it is something else."""
    for path in (runs_dir / given, Path(given)):
        if (path / SWEEP_MARK).is_file():
            return Found("sweep", path)
        if (path / STUDY).is_file():
            return Found("search", path)
        if (path / RESULTS).is_file() and not is_run(path):
            return Found("results", path / RESULTS)
        if path.suffix == ".json" and path.is_file():
            return Found("results", path)
    return None


def results_path(folder: Path) -> Path:
    """The file of a sweep's results.

    Raises:
        UserError: `sweep.json` is damaged.
    """
    try:
        return folder / Path(read_json(folder / SWEEP_MARK)["results"])
    except (Unreadable, KeyError, TypeError):
        raise DataError(
            "is damaged",
            where=printable(folder / SWEEP_MARK, 200),
            hint="Start the sweep again; it goes on from its results.",
        ) from None


def results_folder(given: Path) -> Path:
    """The folder that `--results` means: it is given, or the results.json in it.

    Raises:
        UserError: it is another file.
    """
    if given.name == RESULTS and not given.is_dir():
        return given.parent
    if given.is_file() or (given.suffix == ".json" and not given.exists()):
        raise UserError(
            f"results are written to a folder, as {RESULTS}",
            where=f"--results {printable(given, 200)}",
            hint=f"Give the folder: --results {shlex.quote(str(given.parent))}",
        )
    return given


def results_file(given: Path) -> Path:
    """The file of results that `--reuse` means: it is given, or its folder, or that of a sweep."""
    if (given / SWEEP_MARK).is_file():
        return results_path(given)
    return given / RESULTS if given.is_dir() else given


def require_writable(folder: Path) -> None:
    """Raise a UserError unless files can be written into a folder, which may be missing yet.

    New folders that this takes are removed again.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"cannot write there: {error.strerror}",
            where=printable(folder, 200),
            hint="Choose another folder.",
        ) from error
    finally:
        with contextlib.suppress(OSError):  # others may have put something there
            for path in new:
                path.rmdir()


def note_failed(folder: Path, failures: Failures) -> None:
    """Say in a sweep's folder what failed; nothing if nothing did."""
    if failures.reasons:
        content = json.dumps({"failed": dict(failures.reasons), "left": failures.left})
        atomic.write(folder / FAILED, content + "\n")
    else:
        (folder / FAILED).unlink(missing_ok=True)


def read_failed(folder: Path) -> Failures:
    """What failed in a sweep; nothing if its file is missing or damaged."""
    try:
        content = read_json(folder / FAILED)
        reasons = {str(name): str(reason) for name, reason in content["failed"].items()}
        return Failures(reasons, int(content["left"]))
    except (Unreadable, OSError, KeyError, TypeError, ValueError, AttributeError):
        return Failures({})
