"""Trackers as a training uses them: chosen, opened, and left out when they fail."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from simsmoe_cli import registry
from simsmoe_cli.cli import main
from simsmoe_cli.errors import UserError
from simsmoe_cli.loggers.subscriber import Loggers, require_loggers
from simsmoe_cli.run import probes
from simsmoe_cli.run.folder import RunDir

TRAIN: Any = {"kind": "train", "step": 5, "loss_nats": 2.0}


class Broken:
    """A tracker whose server goes away."""

    package, identity, place = "json", "x", "nowhere"

    def __init__(self, *arguments: Any):
        self.calls = 0

    def numbers(self, step: int, values: Any) -> None:
        self.calls += 1
        raise ConnectionError("gone")


def test_a_tracker_that_fails_is_left_out_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Broken] = []
    monkeypatch.setattr(registry, "load", lambda *_: lambda *a: made.append(Broken()) or made[0])
    said: list[str] = []
    loggers = Loggers(["wandb"], RunDir(tmp_path), {}, said.append)
    for _ in range(3):
        loggers(TRAIN)
    loggers.close()
    assert made[0].calls == 1
    assert said == [
        "wandb: nowhere",
        "warning: wandb failed and is left out from here on: gone",
    ]


def test_matrices_that_cannot_be_read_lose_only_their_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    logged: list[int] = []
    tracker: Any = SimpleNamespace(
        identity="x",
        place="nowhere",
        numbers=lambda step, values: logged.append(step),
        close=lambda finished: None,
    )
    monkeypatch.setattr(registry, "load", lambda *_: lambda *a: tracker)
    monkeypatch.setattr(probes, "read", fails)
    said: list[str] = []
    loggers = Loggers(["wandb"], RunDir(tmp_path), {}, said.append)
    layers = [{"layer": 0, "mean": 0.5, "highest": 0.7}]
    similarity: Any = {"kind": "similarity", "step": 4, "layers": layers, "matrices": "x.npz"}
    for event in (similarity, TRAIN):
        loggers(event)
    loggers.close()
    assert logged == [4, 5]
    assert said == ["wandb: nowhere"]


def test_a_misspelt_tracker_and_one_that_is_missing_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["pretrain", "--log", "tensorbord"]) == 2
    assert "unknown tracker 'tensorbord'. Did you mean 'tensorboard'?" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"wandb is not installed.*'simsmoe\[wandb\]'"):
        require_loggers(["wandb"])
