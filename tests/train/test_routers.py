"""Every router in a training run: what it logs, and how it goes on after a stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from simsmoe_cli.run import checkpoint
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.signals import Stopped
from tests.routers import CASES
from tests.train.test_resume import assert_same_run
from tests.train.tiny import events


def sections(case: str, **more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The changes of a recipe that a case of tests/routers.py stands for, and some more."""
    found: dict[str, dict[str, Any]] = {name: dict(fields) for name, fields in more.items()}
    for override in CASES[case]:
        path, _, value = override.partition("=")
        section, _, field = path.partition(".")
        found.setdefault(section, {})[field] = yaml.safe_load(value)
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_goes_on_as_one_that_never_stopped(
    case: str, trainer: Callable[..., Trainer]
) -> None:
    """Stopped in an open log window, StableMoE in either stage."""
    changes = sections(
        case,
        similarity={
            "preset": "calibrated",
            "weight": 0.003,
            "min_tokens": 4,
            "tokens": 16,
            "budget": None,
        },
        train={"steps": 10, "log_every": 4, "validate_every": 5, "checkpoint_every": 5},
    )
    if case == "stablemoe":
        changes["stablemoe"] = {"freeze_after": 0.5}
    whole = trainer("whole", **changes)
    whole.train()
    for stop in (2, 7) if case == "stablemoe" else (7,):
        stopped = trainer(f"stopped-{stop}", **changes)

        def kill(step: int, stop: int = stop) -> None:
            if step == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        stopped.on_step = kill
        with pytest.raises(Stopped):
            stopped.train()
        folder = checkpoint.find(stopped.run, str(stop))
        resumed = trainer(f"stopped-{stop}", resume_from=folder, **changes)
        resumed.train()
        assert_same_run(resumed.run, whole.run, "checkpoint")


def test_a_step_reports_what_routers_measured(trainer: Callable[..., Trainer]) -> None:
    """Means over layers and steps, of the steps that measured it."""
    changes = sections(
        "stablemoe",
        stablemoe={"freeze_after": 0.4},
        train={"steps": 10, "log_every": 3, "micro_batches": 2},
    )
    run = trainer(**changes)
    run.train()
    logged = {event["step"]: event for event in events(run.run, "train")}
    assert list(logged) == [3, 6, 9, 10]
    # Steps 0 to 3 are of stage 1.
    for step in (3, 6):
        assert 0 < logged[step]["metrics"]["agreement"] <= 1
    for step in (9, 10):
        assert "metrics" not in logged[step]
        assert logged[step]["losses"]["distill"] == 0
    assert logged[3]["losses"]["distill"] > logged[6]["losses"]["distill"] > 0


def test_metrics_are_means_over_layers_and_steps(trainer: Callable[..., Trainer]) -> None:
    """The temperature hardly moves, so its mean is where it started."""
    changes = sections("xmoe", xmoe={"tau": 0.4}, train={"lr": 1e-8, "micro_batches": 2})
    run = trainer(**changes)
    run.train()
    for event in events(run.run, "train"):
        assert event["metrics"] == {"tau": pytest.approx(0.4, abs=1e-5)}
