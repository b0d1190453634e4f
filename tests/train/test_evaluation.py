"""Evaluating an opened run: which options suit it, and what is reported of a task."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simsmoe_cli.data.tasks.store import Task
from simsmoe_cli.errors import UserError
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.run.opened import OpenedRun
from simsmoe_cli.train.classify import TaskEvaluation
from simsmoe_cli.train.evaluation import evaluate_run, task_report

CPU = torch.device("cpu")
OLD = Path(__file__).parents[1] / "runs_of_schema_1"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs "base", a language model, and "tuned", a classifier, with their data."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def evaluated(name: str, **options: Any) -> dict[str, Any]:
    opened = OpenedRun.open(RunDir(Path("runs") / name), "best", Path("data"))
    return evaluate_run(opened, split=options.pop("split", None), device=CPU, **options)


def test_the_split_that_is_reported_is_the_default() -> None:
    base, tuned = evaluated("base"), evaluated("tuned")
    assert (base["split"], base["corpus"], base["tokens"]) == ("test", "letters", 388)
    assert (tuned["split"], tuned["task"], tuned["examples"]) == ("test", "animals", 8)
    assert base["top_k"] is tuned["top_k"] is None


def test_experts_per_token_change_the_score() -> None:
    one, all_ = evaluated("base", top_k=1), evaluated("base", top_k=3)
    assert one["loss_nats"] != all_["loss_nats"]


@pytest.mark.parametrize(
    ("name", "options", "where"),
    [
        ("base", {"task": "animals"}, "--task"),
        ("base", {"predictions": Path("out.csv")}, "--predictions"),
        ("tuned", {"data": Path("data/letters")}, "--data"),
        ("base", {"top_k": 4}, "--top-k"),
        ("base", {"top_k": 0}, "--top-k"),
        ("base", {"split": "dev"}, "--split"),
        ("tuned", {"split": "dev"}, "--split"),
    ],
)
def test_an_option_that_does_not_suit_the_run_is_refused(
    name: str, options: dict[str, Any], where: str
) -> None:
    with pytest.raises(UserError) as caught:
        evaluated(name, **options)
    assert caught.value.where == where
    assert not Path("out.csv").exists()


def test_what_is_reported_of_a_task() -> None:
    result = TaskEvaluation(
        probability_EC=np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], dtype=np.float32),
        label_E=np.array([0, 1, 1]),
        loss_nats=0.5,
        tokens=9,
        seconds=1.0,
    )
    report = task_report(result, Task.open(Path("data/animals")))
    assert report["confusion"] == [[1, 0], [1, 1]]
    assert report["labels"] == ["dog", "fox"]
    # Train has as many of each, and the first of those is what is always said.
    assert report["majority"] == {"label": "dog", "accuracy": pytest.approx(1 / 3)}
    fox = report["classes"][1]
    assert (fox["precision"], fox["recall"], fox["support"]) == (1.0, 0.5, 2)
