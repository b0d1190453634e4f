"""Finds the run that a command means (`find_run`), with one rule for all commands, without torch.

A run is given as its name below --runs-dir, as the path of its folder, or as the path of its
events.jsonl. A name has priority over a path. Anything else (a folder of runs, a checkpoint, a
file, the name of a repository on the Hugging Face Hub, a misspelt name) is refused with a hint.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from simsmoe_cli.errors import DataError, UserError, closest, nearest, printable
from simsmoe_cli.run.folder import RunDir

# As huggingface_hub allows them: OWNER/NAME, which is not a path that leads out of a folder.
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
HUGGINGFACE_CONFIG = "config.json"


def find_run(given: str | Path, runs_dir: Path) -> RunDir:
    """The run that a command means.

    Args:
        given: its name, the path of its folder, or that of its events.jsonl.
        runs_dir: where run folders lie.

    Raises:
        UserError: there is no such run; the message says what was given instead, or names the
            nearest.
    """
    run = RunDir(find_folder(given, runs_dir))
    require_run(run)
    return run


def find_runs_named(given: Sequence[str], runs_dir: Path) -> list[RunDir]:
    """The runs that a command means by names, paths, and patterns such as ``test-*`` of names below
    `runs_dir`; each once.

    Raises:
        UserError: there is no such run, or none that fits a pattern.
    """
    found: dict[Path, RunDir] = {}
    for name in runs_named(given, runs_dir):
        run = find_run(name, runs_dir)
        found.setdefault(run.path.resolve(), run)
    return list(found.values())


def runs_named(given: Sequence[str], runs_dir: Path) -> list[str]:
    """Names and paths as given, with patterns replaced by the names that they fit.

    Raises:
        UserError: no run fits a pattern.
    """
    names: list[str] = []
    for text in given:
        if not any(mark in text for mark in "*?[") or any(
            p.exists() for p in _meant(text, runs_dir)
        ):
            names.append(text)
            continue
        fitting = fnmatch.filter([path.name for path in list_runs(runs_dir)], text)
        if not fitting:
            raise DataError(
                f"no run fits the pattern '{printable(text)}'",
                where=str(runs_dir),
                hint="`simsmoe runs` lists them.",
            )
        names += [name for name in fitting if name not in names]
    return names


def find_folder(given: str | Path, runs_dir: Path) -> Path:
    """As `find_run`, but the folder may also contain a Hugging Face model or a report, or a run
    that has not begun."""
    for path in _meant(given, runs_dir):
        if path.name == "events.jsonl" and path.is_file():
            return path.parent
        if path.is_dir():
            _require_no_part_of_a_run(path)
            _require_no_folder_of_runs(path)
            return path
        if path.is_file():
            raise DataError(
                "this is a file, not a run", where=str(given), hint="Give the folder of a run."
            )
    path = Path(given)
    beside = list_runs(path.parent) if len(path.parts) > 1 else []
    known = [run.name for run in beside or list_runs(runs_dir)]
    if REPOSITORY.fullmatch(str(given)) and not closest(path.name, known):
        raise _not_downloaded(str(given))
    where = path.parent if beside else runs_dir
    raise DataError(
        f"no run '{printable(given)}'", where=str(where), hint=nearest(path.name, known)
    )


def find_checkpoint(given: str | Path, runs_dir: Path) -> tuple[RunDir, Path | None]:
    """The run to resume, and the folder of its checkpoint if a checkpoint was given.

    Args:
        given: as of `find_run`, or the path of a folder in a run's checkpoints/.
        runs_dir: where run folders lie.

    Raises:
        UserError: as `find_run`.
    """
    for path in _meant(given, runs_dir):
        run = RunDir(path.parent.parent)
        if path.parent.name == "checkpoints" and run.path.is_dir():
            return run, path
    return find_run(given, runs_dir), None


def expected_folder(given: str | Path, runs_dir: Path) -> Path:
    """The folder of a run that may not exist yet: as `find_folder`, but a missing run is expected
    below `runs_dir`, or at the given path if it has several parts."""
    if any(path.exists() for path in _meant(given, runs_dir)):
        return find_folder(given, runs_dir)
    return runs_dir / given if len(Path(given).parts) == 1 else Path(given)


def list_runs(runs_dir: Path) -> list[Path]:
    """The run folders in a folder, by name, without those that cannot be read; empty if there is no
    such folder."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(runs_dir):
            with contextlib.suppress(OSError):
                if is_run(Path(entry.path)):
                    found.append(Path(entry.path))
    return sorted(found)


def is_run(folder: Path) -> bool:
    """Whether a training began in a folder."""
    run = RunDir(folder)
    return run.events.exists() or run.recipe.exists()


def means_run(given: Path, runs_dir: Path) -> bool:
    """Whether a path that may also be the folder of a model means a run: it is one, or it is a name
    and nothing has this name."""
    if is_run(runs_dir / given) or is_run(given):
        return True
    return given.name == str(given) and not given.exists()


def require_run(run: RunDir) -> None:
    """Raise a UserError for a folder that is not a run; the message says what it is instead."""
    if any(path.exists() for path in (run.recipe, run.events, run.checkpoints, run.best)):
        return
    if (run.path / HUGGINGFACE_CONFIG).is_file():
        what = "this folder holds a model, not a run: it has config.json and no recipe.yaml"
        hint = (
            "Give a run folder. A model is for collapse-report, pretrain --from, finetune --from."
        )
    else:
        what, hint = "no run in this folder: it has no recipe.yaml", "Give a run folder."
    raise DataError(what, where=str(run.path), hint=hint)


def told_apart(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that are all different; the paths are resolved."""
    names = []
    for parts in (path.parts for path in paths):
        length = 1
        while length < len(parts) and sum(p.parts[-length:] == parts[-length:] for p in paths) > 1:
            length += 1
        names.append("/".join(parts[-length:]))
    return names


def names_of(folders: Sequence[Path]) -> list[str]:
    """The names of run folders; with as much of their paths as tells equal names apart."""
    names = [folder.absolute().name for folder in folders]
    if len(set(names)) == len(names):
        return names
    return told_apart([folder.resolve() for folder in folders])


def _not_downloaded(repository: str) -> UserError:
    name = repository.split("/")[1]
    return DataError(
        "no such run or folder, and nothing is downloaded",
        where=repository,
        hint="If this is a model on the Hugging Face Hub, collapse-report, pretrain --from and "
        f"finetune --from take it, as a folder: hf download {repository} --local-dir {name}, then "
        f"simsmoe collapse-report {name}",
    )


def _meant(given: str | Path, runs_dir: Path) -> tuple[Path, Path]:
    """The paths that a text may mean, in order of priority."""
    below = runs_dir / given
    if below.exists():  # a path that does not exist must not become another one, as x/.. would
        below = Path(os.path.normpath(below))
    return below, Path(os.path.abspath(given))


def _require_no_part_of_a_run(path: Path) -> None:
    """Refuse a checkpoint, best/ and checkpoints/, which lie in a run."""
    folder = Path(os.path.abspath(path))
    for run, part in ((folder.parent, folder.name), (folder.parent.parent, folder.parent.name)):
        if part in ("checkpoints", "best") and is_run(run):
            step = re.fullmatch(r"step-0*([0-9]+)", folder.name)
            which = step[1] if step else "best" if part == "best" else "last"
            raise DataError(
                "this is a part of a run, not a run",
                where=str(path),
                hint=f"Give the run, {shlex.quote(str(run))}, and choose its weights with "
                f"--checkpoint {which}.",
            )


def _require_no_folder_of_runs(path: Path) -> None:
    if is_run(path) or not (inside := list_runs(path)):
        return
    raise DataError(
        "this is a folder of runs, not a run",
        where=str(path),
        hint=f"Choose one of them: --runs-dir {shlex.quote(str(path))} "
        f"{shlex.quote(_newest(inside).name)}.",
    )


def _newest(runs: list[Path]) -> Path:
    def modified(run: Path) -> float:
        with contextlib.suppress(OSError):
            return RunDir(run).events.stat().st_mtime
        return 0.0

    return max(runs, key=modified)
