"""Collapse reports of a sweep: the first seed of each cell against that of its baseline."""

from __future__ import annotations

from pathlib import Path

from simsmoe_cli.collapse.build import Request, make_report
from simsmoe_cli.collapse.show.files import PAGE, write_report
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.sweep.cells import Cell, baseline_of, recipe_of
from simsmoe_cli.sweep.run import LOGS, Sweep, Training
from simsmoe_cli.sweep.side_by_side import Work
from simsmoe_cli.sweep.training import Machine

FORMATS = ("html", "json", "svg")


class _Silent:
    """Receives the progress of a report and shows nothing."""

    def say(self, words: str) -> None:
        pass

    def at(self, words: str, share: float) -> None:
        pass


def report(run: Path, against: Path, data_dir: Path, out: Path, machine: Machine) -> Path:
    """Write the report of a run against another into a folder, which is returned."""
    device = machine.ready()
    request = Request(
        run, against, None, None, (), None, None, device, data_dir, FORMATS, ablate_tokens=0
    )
    write_report(make_report(request, _Silent()), out, FORMATS)
    return out


def due_reports(sweep: Sweep, results: Path) -> tuple[dict[str, Work], list[str]]:
    """The reports that are missing.

    Args:
        sweep: whose trainings have finished.
        results: folder of its results.

    Returns:
        What makes them, by name, and the names of cells whose weights, or whose baseline's, are not
        here.
    """
    works: dict[str, Work] = {}
    without_weights: list[str] = []
    for cell in sweep.cells if sweep.definition.report else ():
        baseline = baseline_of(sweep.definition, cell, sweep.cells)
        out = results / f"report-{cell.name}"
        if baseline is None or cell.same_flops or (out / PAGE).is_file():
            continue
        own, other = (_run(sweep, one) for one in (cell, baseline))
        if own is None or other is None:
            without_weights.append(cell.name)
            continue
        log = sweep.folder / LOGS / f"{out.name}.log"
        works[out.name] = Work(report, (own, other, sweep.data_dir, out), log)
    return works, without_weights


def _run(sweep: Sweep, cell: Cell) -> Path | None:
    """The run folder of a cell's first seed; None if its weights are not here."""
    record = sweep.results.find(recipe_of(sweep.definition, cell, cell.seeds[0]))
    if record is None:
        return None
    run = RunDir(sweep.folder / record.name)
    return run.path if run.best.is_dir() else None


def keeps_weights(sweep: Sweep, training: Training) -> bool:
    """Whether a training's weights are needed for a report."""
    firsts = {cell.seeds[0] for cell in sweep.cells}
    return sweep.definition.report and training.recipe.train.seed in firsts
