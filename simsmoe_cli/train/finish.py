"""Finishes a run that was trained and not tested, with scores that `simsmoe eval` measured."""

from __future__ import annotations

from simsmoe_cli.model.interface import MoEModel
from simsmoe_cli.run.event_log import EventLog, last_event
from simsmoe_cli.run.events import RunFinished, SplitScore, TestScores
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.opened import OpenedRun


def untested(run: RunDir) -> bool:
    """Whether all steps of a run are done, and it was stopped before it was tested."""
    last = last_event(run.events) if run.events.is_file() else None
    return last is not None and last["kind"] == "run_finished" and last.get("status") == "trained"


def finish(opened: OpenedRun, model: MoEModel, scored: SplitScore, scores: TestScores) -> None:
    """Write the test scores of a run's best weights to its events, as a training does at its end.

    Args:
        opened: the run, with its best weights; trained, and not tested.
        model: with these weights.
        scored: the fields of an eval event.
        scores: those of a run_finished event.

    Raises:
        UserError: another process writes to the run.
    """
    run = opened.run
    with run.locked():
        model.publish(run.path, opened.labels if opened.fine_tuned else ())
        step = opened.recipe.train.steps
        log = EventLog(run.events, keep_bytes=run.events.stat().st_size)
        log.emit({"kind": "eval", "step": step, **scored, "best": True})
        finished: RunFinished = {
            "kind": "run_finished",
            "step": step,
            "status": "finished",
            "reason": "all steps done; tested afterwards",
            **scores,
            "best_step": opened.step,
        }
        log.emit(finished)
        log.sync()
        log.close()
