"""SIGTERM, Ctrl-C and readers that leave: what is saved, and how the run says it ended."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from simsmoe_cli.errors import EXIT_SIGINT, EXIT_SIGTERM
from simsmoe_cli.run import checkpoint
from simsmoe_cli.train.finish import untested
from simsmoe_cli.train.objectives import language_modelling
from simsmoe_cli.train.signals import Stopped
from tests.train.tiny import (
    Make,
    events,
    interrupt,
    recipe,
    steps,
)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, EXIT_SIGINT), (signal.SIGTERM, EXIT_SIGTERM)]
)
@pytest.mark.parametrize("at", [3, 4])
def test_a_signal_saves_and_leaves(
    trainer: Make, number: signal.Signals, code: int, at: int
) -> None:
    """Also at a step that saves anyway: it saves once."""
    before = signal.getsignal(number)
    made = trainer()
    interrupt(made, at, number)
    with pytest.raises(Stopped) as stop:
        made.train()
    assert (stop.value.code, stop.value.step) == (code, at)
    assert steps(made.run) == [at]
    saved, finished = events(made.run)[-2:]
    assert (saved["kind"], saved["step"]) == ("checkpoint", at)
    assert [e["step"] for e in events(made.run, "checkpoint")] == [at]
    assert (finished["status"], finished["reason"]) == ("stopped", number.name)
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_leaves_at_once(trainer: Make) -> None:
    made = trainer()
    interrupt(made, 3, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    assert steps(made.run) == []
    finished = events(made.run)[-1]
    assert (finished["status"], finished["reason"]) == ("stopped", "interrupted twice, not saved")


def test_a_second_sigterm_does_not_cut_the_saving_short(trainer: Make) -> None:
    made = trainer()
    interrupt(made, 3, signal.SIGTERM, signal.SIGTERM)
    with pytest.raises(Stopped) as stop:
        made.train()
    assert stop.value.code == EXIT_SIGTERM
    assert steps(made.run) == [3]


@pytest.mark.parametrize("moment", ["last step", "final evaluation"])
def test_stopped_when_all_steps_are_done(
    trainer: Make, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The final evaluation of a large split takes long: it is left out, and made up for."""
    whole = trainer("whole")
    whole.train()
    made = trainer()
    if moment == "last step":
        interrupt(made, 8, signal.SIGTERM)
    else:
        evaluate = language_modelling.evaluate_split

        def interrupted(*args: Any, **kwargs: Any) -> Any:
            if (
                made.steps_done == 8
                and kwargs["max_blocks"] == made.objective.recipe.eval.final_blocks
            ):
                os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(*args, **kwargs)

        monkeypatch.setattr(language_modelling, "evaluate_split", interrupted)
        made.objective.recipe = recipe(eval={"final_blocks": 3})
    with pytest.raises(Stopped):
        made.train()
    assert "test" not in {event.get("split") for event in events(made.run)}
    assert (events(made.run)[-1]["status"], untested(made.run)) == ("trained", True)
    monkeypatch.undo()
    resumed = trainer(resume_from=checkpoint.find(made.run, "last"))
    resumed.train()
    assert events(resumed.run)[-1] | {"time": 0} == events(whole.run)[-1] | {"time": 0}


@pytest.mark.parametrize("leaving", [SystemExit(1), BrokenPipeError(32, "Broken pipe")])
def test_a_reader_that_leaves_does_not_hide_how_the_run_ended(
    trainer: Make, leaving: BaseException
) -> None:
    """Rich raises SystemExit where the output is closed, print a BrokenPipeError."""

    def reader(event: dict[str, Any]) -> None:
        if event["step"] >= 6:
            raise leaving

    made = trainer()
    made.log._subscriber = reader
    with pytest.raises(type(leaving)):
        made.train()
    last = events(made.run)[-1]
    assert (last["kind"], last["status"]) == ("run_finished", "failed")
    assert steps(made.run) == [4]
