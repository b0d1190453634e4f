"""What is planned for pre-training; nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from simsmoe_cli.data.corpora.prepare import prepare
from simsmoe_cli.errors import UserError
from simsmoe_cli.train.plan_pretraining import Plan, plan_training
from simsmoe_cli.train.session import open_corpus

OLD = Path(__file__).parents[1] / "runs_of_schema_1"


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Runs "base", of 8 steps, and "tuned", which fine-tunes."""
    shutil.copytree(OLD / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def resumed(runs_dir: Path, *overrides: str, run: str = "base") -> Plan:
    return plan_training(None, overrides, runs_dir, resume=run)


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    plan = plan_training("quickstart", [], tmp_path / "runs")
    assert plan.run.path == tmp_path / "runs/quickstart-smoe-calibrated"
    assert plan.resume_from is None
    assert not (tmp_path / "runs").exists()


def test_a_resumed_run_has_its_own_recipe(runs_dir: Path) -> None:
    plan = resumed(runs_dir, "train.steps=12", "train.lr=1e-4", "eval.streams=2")
    assert plan.recipe.name == "tiny"
    assert (plan.recipe.train.steps, plan.recipe.train.lr, plan.recipe.eval.streams) == (
        12,
        1e-4,
        2,
    )
    assert plan.resume_from == runs_dir / "base/checkpoints/step-0000008"
    by_name = plan_training(None, ["train.steps=12"], runs_dir, name="base", resume="auto")
    assert by_name.resume_from == plan.resume_from


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.batch=8", r"cannot change train\.batch \(4 -> 8\)"),
        ("moe.balance_weight=0.5", r"cannot change moe\.balance_weight"),
        ("train.steps=4", "past the 4 of training"),
    ],
)
def test_what_a_resumed_run_computes_stays(runs_dir: Path, override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        resumed(runs_dir, override)


def test_what_fine_tunes_is_for_another_command(runs_dir: Path) -> None:
    with pytest.raises(UserError, match="fine-tunes a model") as caught:
        resumed(runs_dir, run="tuned")
    assert "simsmoe finetune --resume" in caught.value.hint
    with pytest.raises(UserError, match="finetune-sst2 fine-tunes") as caught:
        plan_training("finetune-sst2", ["train.steps=4"], runs_dir)
    assert "simsmoe finetune --from RUN --task sst2" in caught.value.hint


def test_a_resumed_run_goes_on_with_its_own_corpus(runs_dir: Path, tmp_path: Path) -> None:
    """By its name, or where it was in training; never with another text of that name."""
    plan = resumed(runs_dir, "train.steps=12")
    assert plan.state is not None
    assert open_corpus(plan, OLD / "data").path == OLD / "data/letters"
    plan.state["store"] = str(OLD / "data/letters")
    assert open_corpus(plan, tmp_path / "nowhere").path == OLD / "data/letters"
    (tmp_path / "other.txt").write_text("the red fox\n" * 300)
    prepare(str(tmp_path / "other.txt"), tmp_path / "data/letters")
    with pytest.raises(UserError, match="corpus is not the one this run was trained on"):
        open_corpus(plan, tmp_path / "data")
