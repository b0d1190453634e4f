"""Fine-tuning on several ranks: padded texts, batches smaller than the ranks, evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from simsmoe_cli.parallel.sharded import whole
from simsmoe_cli.parallel.world import ALONE, World
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.objectives.classification import Classification
from simsmoe_cli.train.plan_finetuning import FinetunePlan
from simsmoe_cli.train.sharding import let_go, shard
from simsmoe_cli.train.step import Stepper
from tests.gloo_ranks import on_ranks
from tests.parallel.cases import TOLERANCE, difference
from tests.parallel.runs import world_of
from tests.train.transfer import planned, prepare, pretrain

STEPS = 8  # more than an epoch; its smallest batch has two texts if the others have eight


def tune(plan: FinetunePlan, world: World = ALONE) -> dict[str, Any]:
    """Sums of every step, weights after the last, and the scores of the validation split."""
    device = torch.device("cpu")
    made = Classification(plan.recipe, plan.task, plan.vocabulary, device, plan.origin, world=world)
    assert plan.pretrained is not None
    plan.pretrained.load_into(made.model)
    shard(made.model, world)
    stepper = Stepper(made)
    measured = []
    for _ in range(STEPS):
        stepper.step()
        measured.append(dict(stepper.window.sums))
        stepper.window.sums = {}
    score = made.validate(made.context(STEPS))
    let_go(made.model)
    weights = {name: whole(p.detach()).clone() for name, p in made.model.named_parameters()}
    scores = torch.from_numpy(score.probability_EC)
    return {"measured": measured, "weights": weights, "scores": scores}


def tune_on(rank: int, size: int, plan: FinetunePlan) -> dict[str, Any]:
    return tune(plan, world_of(rank, size))


# With eight texts a batch, two are left over; a micro-batch of them would be one text.
@pytest.mark.parametrize(("batch", "micro_batches"), [(8, 1), (6, 2)])
def test_the_same_as_in_one_process(
    corpus_dir: Path, tmp_path: Path, batch: int, micro_batches: int
) -> None:
    prepare(tmp_path, "letters")
    for name in ("sources", "words"):
        (tmp_path / name).symlink_to(corpus_dir / name)
    base = pretrain(tmp_path, RunDir(tmp_path / "runs/base"))
    plan = planned(
        base, tmp_path, f"train.batch={batch}", f"train.micro_batches={micro_batches}",
        "train.eps=1e-4", "train.lr=1e-3",
    )  # fmt: skip
    (tmp_path / "ranks").mkdir()
    found = on_ranks(tune_on, 2, tmp_path / "ranks", 2, plan)
    gap, where = difference(found[1], tune(plan))
    assert gap < TOLERANCE, where
