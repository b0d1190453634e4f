"""What is planned for fine-tuning, and what contradicts the checkpoint or the task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simsmoe_cli.cli import main
from simsmoe_cli.errors import EXIT_USAGE, UserError
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.classify import TaskEvaluation
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.plan_finetuning import plan_finetuning
from tests.train.transfer import objective_of, planned, pretrain

Make = Callable[..., Trainer[TaskEvaluation]]
CPU = torch.device("cpu")


def test_steps_follow_from_epochs(base: RunDir, data_dir: Path) -> None:
    train = planned(base, data_dir, "finetune.epochs=7").recipe.train
    assert train.steps == 7 * 6
    assert (train.validate_every, train.checkpoint_every, train.probe_every) == (6, 6, 6)
    own = planned(base, data_dir, "train.probe_every=2").recipe.train
    assert (own.validate_every, own.probe_every) == (6, 2)


def test_the_published_settings(base: RunDir, data_dir: Path) -> None:
    """METHODS of the paper: 512 tokens, Adam 1e-4, batch 16 (IMDB 4), 5 epochs (BANKING77 50)."""
    for task, epochs, batch in (
        ("sst2", 5, 16),
        ("sst5", 5, 16),
        ("imdb", 5, 4),
        ("banking77", 50, 16),
    ):
        recipe = load_recipe(f"finetune-{task}")
        train = recipe.train
        assert (recipe.finetune.task, recipe.finetune.epochs) == (task, epochs)
        assert recipe.finetune.drop_last_layer
        assert (train.batch, train.block, train.optimizer, train.lr) == (batch, 512, "adam", 1e-4)
        assert (train.schedule, train.warmup_steps, train.weight_decay) == ("constant", 0, 0)


def test_model_router_and_similarity_are_those_of_the_run(data_dir: Path, tmp_path: Path) -> None:
    start = pretrain(
        data_dir,
        RunDir(tmp_path / "start"),
        moe={"router": "xmoe", "balance_weight": 0.02},
        xmoe={"tau": 0.4},
        similarity={"preset": "paper", "min_tokens": 5},
    )
    recipe = planned(start, data_dir).recipe
    before = load_recipe(str(start.recipe))
    for section in ("model", "moe", "xmoe", "similarity", "data"):
        assert getattr(recipe, section) == getattr(before, section)
    changed = planned(start, data_dir, "similarity.preset=calibrated", "model.dropout=0.2").recipe
    assert changed.similarity == load_recipe("quickstart").similarity
    assert changed.model.dropout == 0.2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.width=64", r"cannot be changed: model\.width \(32 -> 64\)"),
        ("moe.router=hsh", r"'hsh'.*Did you mean 'hash'"),
        ("moe.router=switch", r"router switch sends a token to 1 expert, not 2"),
        ("xmoe.tau=0.1", r"xmoe\.tau: has no effect with router smoe"),
        ("moe.experts=8", r"moe\.experts \(4 -> 8\)"),
        ("data.corpus=words", r"data\.corpus"),
        ("train.steps=100", r"train\.steps: 30 steps follow from 5 epochs of 6"),
        ("train.order=contiguous", r"train\.order: has no effect in fine-tuning"),
        ("eval.streams=2", r"eval\.streams: has no effect with a task"),
        ("finetune.epoch=2", r"finetune\.epoch: unknown key"),
    ],
)
def test_what_contradicts_the_checkpoint_or_the_task_is_said(
    base: RunDir, data_dir: Path, change: str, said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        planned(base, data_dir, change)
    assert caught.value.code == EXIT_USAGE


@pytest.mark.parametrize("router", ["smoe", "hash", "expert-choice"])
def test_a_recipe_may_put_another_router_in_the_place_of_the_checkpoints(
    router: str, data_dir: Path, tmp_path: Path
) -> None:
    """Experts and all else are taken over; the settings of the router that left are not."""
    pretraining = {"moe": {"router": "xmoe"}, "xmoe": {"tau": 0.4}}
    start = pretrain(data_dir, RunDir(tmp_path / "start"), **pretraining)
    kept = objective_of(planned(start, data_dir, "xmoe.tau=0.2"))
    assert not any("starts fresh" in warning for warning in kept.warnings)
    plan = planned(start, data_dir, f"moe.router={router}", "finetune.epochs=1")
    assert (plan.recipe.moe.router, plan.recipe.xmoe.tau) == (router, 0.3)
    made = objective_of(plan)
    assert f"router {router} starts fresh and replaces xmoe" in made.warnings
    found = load_file(next(start.best.glob("*.safetensors")))
    own = made.model.state_dict()
    same = [name for name in own if name in found and torch.equal(own[name], found[name])]
    other = {name for name in own if not name.startswith("classifier.")} - set(same)
    assert all(".router." in name for name in other)
    assert any("experts.w_in" in name for name in same)
    Trainer(made, RunDir(tmp_path / "tuned")).train()


def test_the_only_layer_is_not_dropped_from_a_plan(data_dir: Path, tmp_path: Path) -> None:
    """Before anything is read or written."""
    start = pretrain(data_dir, RunDir(tmp_path / "start"), model={"repeats": 1})
    with pytest.raises(UserError, match="nothing would be left of it") as caught:
        planned(start, data_dir, "finetune.drop_last_layer=true")
    assert (caught.value.code, caught.value.where) == (EXIT_USAGE, "finetune.drop_last_layer")


def test_settings_without_a_task_name_take_the_tasks_recipe(
    base: RunDir, data_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "banking77").symlink_to(data_dir / "letters")
    (tmp_path / "sources").symlink_to(data_dir / "sources")
    plan = plan_finetuning(
        base.path, "best", None, None, ["finetune.task=banking77"],
        data_dir=tmp_path, runs_dir=tmp_path / "runs",
    )  # fmt: skip
    assert (plan.recipe.name, plan.recipe.finetune.epochs) == ("finetune-banking77", 50)


def test_router_settings_that_do_not_fit_are_said(data_dir: Path, tmp_path: Path) -> None:
    start = pretrain(data_dir, RunDir(tmp_path / "start"), moe={"router": "xmoe"})
    plan = planned(start, data_dir, "xmoe.dimension=16")
    with pytest.raises(UserError, match=r"do not fit the recipe, .*: 4 x 8 in the checkpoint"):
        objective_of(plan)


def test_settings_of_fine_tuning_mean_nothing_in_pre_training() -> None:
    with pytest.raises(UserError, match=r"finetune\.epochs: has no effect with pre-training"):
        load_recipe("quickstart", ["finetune.epochs=3"])
    assert main.run(["pretrain", "--recipe", "finetune-sst2"]) == EXIT_USAGE


def test_a_fine_tuned_run_is_no_start(finetune: Make, data_dir: Path) -> None:
    run = finetune("finetune.epochs=1")
    run.train()
    with pytest.raises(UserError, match="is a classifier, fine-tuned on letters"):
        planned(run.run, data_dir)
