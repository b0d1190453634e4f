"""The folder of a sweep: runs, their logs, and `sweep.json`, which says where the results are."""

from __future__ import annotations

import json
from pathlib import Path

from simsmoe_cli.errors import DataError, printable
from simsmoe_cli.files import atomic
from simsmoe_cli.files.untrusted import Unreadable, read_json

MARK = "sweep.json"


def mark(folder: Path, results: Path) -> None:
    """Say in a sweep's folder where the file of its results is: relative if it is in there."""
    results, own = results.resolve(), folder.resolve()
    path = results.relative_to(own) if results.is_relative_to(own) else results
    content = json.dumps({"schema": 1, "results": str(path)})
    atomic.write(folder / MARK, content + "\n")


def sweep_folder(given: str | Path, runs_dir: Path) -> Path | None:
    """The folder of a sweep with this name or path; None if it is something else."""
    for folder in (runs_dir / given, Path(given)):
        if (folder / MARK).is_file():
            return folder
    return None


def results_path(folder: Path) -> Path:
    """The file of a sweep's results.

    Raises:
        UserError: `sweep.json` is damaged.
    """
    try:
        return folder / Path(read_json(folder / MARK)["results"])
    except (Unreadable, KeyError, TypeError):
        raise DataError(
            "is damaged",
            where=printable(folder / MARK, 200),
            hint="Start the sweep again; it goes on from its results.",
        ) from None
