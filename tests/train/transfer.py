"""What fine-tuning tests start from: a pre-trained tiny run, and a task a tiny model can learn."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from simsmoe_cli.data.tasks.prepare import prepare_task
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train import session
from simsmoe_cli.train.objectives.classification import Classification
from simsmoe_cli.train.plan_finetuning import FinetunePlan, plan_finetuning
from simsmoe_cli.train.plan_pretraining import Plan
from tests.train.tiny import recipe

LETTERS = {"down": "dn", "even": "ev", "up": "up"}
# As little as fine-tuning can do.
QUICK = [
    "train.batch=8",
    "train.block=16",
    "train.optimizer=adam",
    "train.lr=1e-2",
    "train.log_every=2",
    "train.probe_tokens=64",
    "finetune.drop_last_layer=false",
]


def write_task(folder: Path, labels: tuple[str, ...] = tuple(LETTERS), unknown: str = "") -> Path:
    """CSV files of texts of 2 to 24 letters that give their label away; 42 to train on, 12 to
    validate, 18 to test. `unknown` is put into the first test text."""
    draw = random.Random(0)
    folder.mkdir(parents=True)
    for split, count in (("train", 42), ("valid", 12), ("test", 18)):
        rows = ["text,label"]
        for number in range(count):
            label = labels[number % len(labels)]
            letters = LETTERS.get(label, "xy")
            text = "".join(draw.choices(letters, k=draw.randint(2, 24))) + str(number)
            if split == "test" and number == 0:
                text = unknown + text
            rows.append(f"{text},{label}")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


def prepare(data_dir: Path, name: str, **options: Any) -> Path:
    """A prepared task of such texts."""
    source = write_task(data_dir / f"{name}-source", **options)
    prepare_task(str(source), data_dir / name, text_column="text", label_column="label")
    return data_dir / name


def pretrain(corpus_dir: Path, run: RunDir, **changes: dict[str, Any]) -> RunDir:
    """A run of the tiny recipe, trained."""
    made = recipe(**changes)
    store = session.open_store(made, corpus_dir)
    session.train(Plan(made, run, None), store, torch.device("cpu"))
    return run


def planned(base: RunDir, data_dir: Path, *overrides: str, **options: Any) -> FinetunePlan:
    return plan_finetuning(
        base.path, "best", "letters", None, [*QUICK, *overrides],
        data_dir=data_dir, runs_dir=data_dir / "runs", **options,
    )  # fmt: skip


def objective_of(plan: FinetunePlan) -> Classification:
    made = Classification(plan.recipe, plan.task, plan.vocabulary, torch.device("cpu"), plan.origin)
    if plan.pretrained is not None:
        made.warnings += plan.pretrained.load_into(made.model)
    return made
