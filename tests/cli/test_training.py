"""The frame of pretrain and finetune: what is said of a run that starts, ends or is stopped."""

from __future__ import annotations

import io
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from rich.console import Console

from simsmoe_cli.cli.options import DATA_DIR
from simsmoe_cli.cli.training import carry_out, ready_device
from simsmoe_cli.errors import EXIT_SIGINT, EXIT_SIGTERM, UserError
from simsmoe_cli.parallel.world import World
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.plan_pretraining import Plan
from simsmoe_cli.train.signals import Stopped
from tests.train.tiny import recipe


def said(train: Any, *, as_json: bool = False, data_dir: Path = DATA_DIR) -> list[str]:
    """The lines that are printed of a training."""
    output = io.StringIO()
    plan = Plan(recipe(), RunDir(Path("my runs/a")), None)
    try:
        carry_out(
            "pretrain",
            plan,
            torch.device("cpu"),
            World(),
            Console(file=output, width=200),
            doing="training tiny",
            vocab_size=30,
            train=train,
            summary="test {}".format,
            longer="train.steps=16",
            data_dir=data_dir,
            as_json=as_json,
        )
    except typer.Exit as leave:
        output.write(f"exit {leave.exit_code}\n")
    return output.getvalue().splitlines()


def test_a_run_that_ends_says_what_came_of_it_and_what_is_next() -> None:
    lines = said(lambda view: 2.5)
    assert lines[0].startswith("training tiny in my runs/a on cpu")
    assert lines[1:] == [
        "",
        "test 2.5",
        "",
        "try next:",
        "  simsmoe eval 'my runs/a'",
        "  simsmoe pretrain --resume 'my runs/a' --set train.steps=16",
    ]


def test_advice_names_another_data_folder() -> None:
    assert said(lambda view: 1, data_dir=Path("/d"))[-2:] == [
        "  simsmoe eval 'my runs/a' --data-dir /d",
        "  simsmoe pretrain --data-dir /d --resume 'my runs/a' --set train.steps=16",
    ]


def test_json_has_no_summary() -> None:
    assert len(said(lambda view: 1, as_json=True)) == 1


def test_a_run_that_is_stopped_says_how_to_go_on() -> None:
    def stop(view: object) -> int:
        raise Stopped(signal.SIGTERM, 3)

    assert said(stop)[1:] == [
        "stopped at step 3 and saved; continue with: simsmoe pretrain --resume 'my runs/a'",
        f"exit {EXIT_SIGTERM}",
    ]


def test_a_run_that_is_stopped_in_its_test_says_how_to_test_it() -> None:
    def stop(view: object) -> int:
        raise Stopped(signal.SIGINT, 8)

    assert said(stop)[1:] == [
        "trained and saved, not tested; test it with: simsmoe eval 'my runs/a'",
        f"exit {EXIT_SIGINT}",
    ]


def test_a_device_must_run_the_experts() -> None:
    assert ready_device(recipe(), "cpu", deterministic=False).type == "cpu"
    with pytest.raises(UserError, match="fastmoe"):
        ready_device(recipe(moe={"backend": "fastmoe"}), "cpu", deterministic=False)
