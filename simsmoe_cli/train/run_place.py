"""Finds the run folder of a training: a new one, or that of the run to resume."""

from __future__ import annotations

from pathlib import Path

from simsmoe_cli.errors import UserError
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.find import find_checkpoint
from simsmoe_cli.run.folder import RunDir


def find_place(
    runs_dir: Path, base: str, name: str | None, resume: str | None
) -> tuple[RunDir, Path | None, list[str]]:
    """The folder of a run, its newest readable checkpoint if it is resumed, and notes on newer
    checkpoints that cannot be read.

    Args:
        runs_dir: where run folders lie.
        base: of the run's name; a number is added if the name is taken.
        name: the exact name of the run; None: `base` with a number.
        resume: None, or "auto".

    Raises:
        UserError: the name is taken, and the run is not to be resumed; or it is, and none of its
            checkpoints can be read.
    """
    if resume == "auto":
        existing = [RunDir(runs_dir / base)] if name else _numbered(runs_dir, base)
        for run in reversed(existing):
            if run.path.exists():
                return run, *checkpoint.newest(run)
        return RunDir(runs_dir / base), None, []
    if name is None:
        return _fresh(runs_dir, base), None, []
    run = RunDir(runs_dir / name)
    if run.recipe.exists() or run.events.exists():
        raise UserError(
            "this run folder already holds a run",
            where=str(run.path),
            hint="Go on with it by --resume auto, or choose another --name.",
        )
    return run, None, []


def resumed(given: str, name: str | None, runs_dir: Path) -> tuple[RunDir, Path]:
    """The run and the checkpoint to go on with.

    Args:
        given: of --resume; see `find_checkpoint`.
        name: of --name; a UserError together with --resume.
        runs_dir: where run folders lie.
    """
    if name is not None:
        raise UserError(
            "a run that is resumed by its path has its name",
            where="--name",
            hint="Leave it out, or use --resume auto.",
        )
    run, folder = find_checkpoint(given, runs_dir)
    return run, folder or checkpoint.find(run, "last")


def _numbered(runs_dir: Path, base: str) -> list[RunDir]:
    """The existing folders base, base-2, base-3 ..., oldest first."""
    found = [runs_dir / base, *runs_dir.glob(f"{base}-*")]
    numbers = {
        int(path.name.removeprefix(base).lstrip("-") or 1): path
        for path in found
        if path.is_dir() and (path.name.removeprefix(f"{base}-").isdigit() or path.name == base)
    }
    return [RunDir(numbers[number]) for number in sorted(numbers)]


def _fresh(runs_dir: Path, base: str) -> RunDir:
    number = 1
    while (path := runs_dir / (base if number == 1 else f"{base}-{number}")).exists():
        number += 1
    return RunDir(path)
