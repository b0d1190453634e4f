"""What a sweep's trainings will cost, against what they then take; the time of several at once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from simsmoe_cli.cli import sweeping
from simsmoe_cli.errors import UserError
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.sweep import run as running
from simsmoe_cli.sweep.arguments import assignments
from simsmoe_cli.sweep.cells import cells_of
from simsmoe_cli.sweep.costs import overrides_of
from simsmoe_cli.sweep.definition import Definition, Task, definition_of
from simsmoe_cli.sweep.side_by_side import Outcome, Work
from simsmoe_cli.sweep.timing import flops_of_the_last
from simsmoe_cli.sweep.training import Machine
from tests.sweep.test_sweep import DEFINITION
from tests.train.tiny import events
from tests.train.transfer import QUICK, prepare

LETTERS = {
    "task": "letters",
    "recipe": "finetune-sst2",
    "settings": assignments([*QUICK, "finetune.epochs=2"], "settings"),
}


def here(works: Sequence[Work], at: Sequence[Machine]) -> Iterator[Outcome]:
    """Works carried out one after the other in this process."""
    for number, work in enumerate(works):
        yield Outcome(number, work.call(*work.given, at[0]))


def tuned(**changes: Any) -> Definition:
    """One tiny training that is fine-tuned."""
    grids = [{"moe.router": ["smoe"]}]
    given = DEFINITION | {"grids": grids, "baseline": {}, "finetune": [LETTERS]} | changes
    return definition_of(given, "test")


def test_fine_tuning_is_counted_in_the_plan_and_its_weights_can_be_kept(
    corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "sources").symlink_to(corpus_dir / "sources")
    prepare(data, "letters")
    monkeypatch.setattr(running, "outcomes", here)

    def opened() -> running.Sweep:
        return running.open_sweep(tuned(), tmp_path / "runs", data, tmp_path / "r.json", print)

    sweep = opened()
    (training,) = sweep.trainings
    pretraining, tuning = training.parts
    for keep_weights in (True, False):
        failed = running.carry_out(
            opened(),
            [Machine("cpu", 1)],
            keep_weights=keep_weights,
            needed_later=lambda one: False,
            on_end=lambda *given: None,
        )
        runs = [training.job.run, training.job.tuned(training.job.tasks[0])]
        assert failed == {}
        assert [run.best.exists() for run in runs] == [keep_weights] * 2
        if keep_weights:  # killed before it was measured, so nothing is left to train
            (again,) = opened().trainings
            assert [part.share_due for part in again.parts] == [0, 0]
            (tmp_path / "r.json").unlink()
    read = events(runs[1], "train")[-1]["tokens"]
    assert tuning.cost.tokens == read
    assert tuning.cost.steps == 12  # 42 texts in batches of 8, twice
    shown = io.StringIO()
    sweeping._show_plan(sweep, Console(file=shown, width=200), tmp_path / "r.json")
    assert f"due        1: {pretraining.cost.tokens + read:,} tokens" in shown.getvalue()
    assert f"fine-tuning on letters: {read:,} tokens" in shown.getvalue()
    assert training.flops_due == pretraining.cost.flops + tuning.cost.flops
    # Pre-training costs the output layer as well, and its blocks are longer than these texts.
    costs = (part.cost.flops / part.cost.tokens for part in training.parts)
    of_pretraining, of_tuning = costs
    assert 0.5 * of_pretraining < of_tuning < of_pretraining


def test_settings_of_a_task_mean_what_they_mean_in_a_recipe() -> None:
    settings = {"similarity.preset": "calibrated", "similarity.budget": None, "train.lr": 1e-5}
    task = Task(task="letters", recipe="finetune-sst2", settings=settings)
    recipe = load_recipe("finetune-sst2", ["train.steps=10", *overrides_of(task)])
    assert (recipe.similarity.budget, recipe.train.lr) == (None, 1e-5)


def test_a_recipe_for_fine_tuning_is_no_sweep() -> None:
    with pytest.raises(UserError, match=r"recipe finetune-sst2: fine-tunes.*finetune: \[\{task"):
        cells_of(tuned(recipe="finetune-sst2", settings={}, finetune=[]))


def test_the_time_of_several_is_that_until_the_last_ends() -> None:
    assert flops_of_the_last([5.0], 1) == 5
    assert flops_of_the_last([5.0], 4) == 5
    assert flops_of_the_last([2.0, 2.0, 2.0], 2) == 4
    assert flops_of_the_last([4.0, 1.0, 1.0, 1.0], 2) == 4
