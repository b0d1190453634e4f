"""Fine-tuning: what is taken over, what is computed and reported, and that it resumes exactly."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from simsmoe_cli.cli import main
from simsmoe_cli.data.tasks.batches import TaskBatches
from simsmoe_cli.errors import EXIT_DATA, EXIT_USAGE, UserError
from simsmoe_cli.moe.routers.base import StepContext
from simsmoe_cli.moe.routers.smoe_dropout import SMoEDropoutRouter
from simsmoe_cli.moe.routers.stablemoe import StableMoERouter
from simsmoe_cli.recipe.load import load_recipe
from simsmoe_cli.run import checkpoint
from simsmoe_cli.run.folder import RunDir
from simsmoe_cli.train.loop import Trainer
from simsmoe_cli.train.objectives.classification import Classification, TaskEvaluation, some
from simsmoe_cli.train.plan_finetuning import FinetunePlan, plan_finetuning
from simsmoe_cli.train.probes import probe
from simsmoe_cli.train.signals import Stopped
from tests.no_waiting import NoWaiting
from tests.train.test_resume import PAPER_MODEL, assert_same_run
from tests.train.test_routers import sections
from tests.train.tiny import events, without_times
from tests.train.transfer import QUICK, prepare, pretrain

Make = Callable[..., Trainer[TaskEvaluation]]
CPU = torch.device("cpu")
# Routers that differ in what they keep, look at or do: a buffer, token ids, two stages, dense
# experts, empty slots, one expert a token.
ROUTERS = [
    ("smoe", "published"),
    ("switch", "calibrated"),
    ("stablemoe", "none"),
    ("competesmoe, competing", "calibrated"),
    ("hash", "published"),
    ("loss-free", "none"),
    ("remoe", "calibrated"),
    ("expert-choice", "none"),
]


@pytest.fixture(scope="module")
def data_dir(corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpora and the task "letters"."""
    folder = tmp_path_factory.mktemp("transfer")
    for name in ("sources", "words"):
        (folder / name).symlink_to(corpus_dir / name)
    prepare(folder, "letters")
    return folder


@pytest.fixture(scope="module")
def base(data_dir: Path) -> RunDir:
    """A pre-trained run of the paper's attention."""
    model = PAPER_MODEL | {"dropout": 0.0}
    return pretrain(data_dir, RunDir(data_dir / "runs/base"), model=model)


def planned(base: RunDir, data_dir: Path, *overrides: str, **options: Any) -> FinetunePlan:
    return plan_finetuning(
        base.path, "best", "letters", None, [*QUICK, *overrides],
        data_dir=data_dir, runs_dir=data_dir / "runs", **options,
    )  # fmt: skip


def objective_of(plan: FinetunePlan) -> Classification:
    made = Classification(plan.recipe, plan.task, plan.vocabulary, CPU, plan.origin)
    if plan.pretrained is not None:
        made.warnings += plan.pretrained.load_into(made.model)
    return made


@pytest.fixture
def finetune(base: RunDir, data_dir: Path, tmp_path: Path) -> Make:
    """Makes trainers that fine-tune on the letters, in a run folder each."""

    def make(
        *overrides: str, name: str = "run", start: RunDir = base, resume_from: Path | None = None
    ) -> Trainer[TaskEvaluation]:
        objective = objective_of(planned(start, data_dir, *overrides))
        return Trainer(objective, RunDir(tmp_path / name), resume_from=resume_from)

    return make


# What is taken over


def test_the_backbone_is_taken_over_and_the_head_is_fresh(base: RunDir, data_dir: Path) -> None:
    weights = load_file(next(base.best.glob("*.safetensors")))
    objective = objective_of(planned(base, data_dir, "finetune.drop_last_layer=true"))
    own = objective.model.state_dict()
    head = {"classifier.weight", "classifier.bias"}
    for name in own.keys() - head:
        assert torch.equal(own[name], weights[name]), name
    left = {name for name in weights.keys() - own.keys() if not name.startswith("output.")}
    assert left
    assert all(name.startswith(("layers.2.", "layers.3.")) for name in left)


@pytest.mark.parametrize("same", [True, False])
def test_heads_and_pair_counts_go_on_where_the_settings_do(
    data_dir: Path, tmp_path: Path, same: bool
) -> None:
    similarity = {"preset": "published", "check_every": 100.0}
    start = pretrain(data_dir, RunDir(tmp_path / "start"), similarity=similarity)
    changes = [] if same else ["similarity.preset=paper"]
    layer = objective_of(planned(start, data_dir, *changes)).model.moe_layers[0]
    weights = load_file(next(start.best.glob("*.safetensors")))
    assert layer.similarity is not None
    counts = layer.similarity.tracker.shared_NN
    assert torch.equal(counts, weights["layers.1.moe.similarity.tracker.shared_NN"]) == same
    assert bool(counts.any()) == same


def test_a_frozen_router_stays_frozen(data_dir: Path, tmp_path: Path, finetune: Make) -> None:
    changes = {"moe": {"router": "stablemoe"}, "stablemoe": {"freeze_after": 0.5}}
    start = pretrain(data_dir, RunDir(tmp_path / "start"), **changes)
    run = finetune("train.lr=1e-3", start=start)
    before = {n: p.clone() for n, p in run.model.named_parameters() if ".router." in n}
    run.step()
    for layer in run.model.moe_layers:
        assert isinstance(layer.router, StableMoERouter)
        assert layer.router.frozen
    after = dict(run.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_router_in_its_first_stage_freezes_in_fine_tuning(
    data_dir: Path, tmp_path: Path, finetune: Make
) -> None:
    """freeze_after is a share of the fine-tuning's own steps."""
    start = pretrain(
        data_dir,
        RunDir(tmp_path / "start"),
        moe={"router": "stablemoe"},
        stablemoe={"freeze_after": 1.0},
    )
    run = finetune("stablemoe.freeze_after=0.5", "finetune.epochs=1", start=start)
    frozen = []
    for _ in range(run.settings.steps):
        run.step()
        router = run.model.moe_layers[0].router
        assert isinstance(router, StableMoERouter)
        frozen.append(bool(router.frozen))
    assert run.settings.steps == 6
    assert frozen == [False] * 3 + [True] * 3


def test_experts_per_token_grow_on_from_where_they_were(data_dir: Path, tmp_path: Path) -> None:
    start = pretrain(
        data_dir,
        RunDir(tmp_path / "start"),
        moe={"router": "smoe-dropout"},
        smoe_dropout={"k_start": 1, "k_end": 3},
        train={"validate_every": 0},
    )
    router = objective_of(planned(start, data_dir)).model.moe_layers[0].router
    assert isinstance(router, SMoEDropoutRouter)
    assert (router.k_at(0, 100), router.k_at(99, 100)) == (3, 3)


# What is computed


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_model_learns_the_task(finetune: Make, pooling: str) -> None:
    run = finetune(f"finetune.pooling={pooling}", "finetune.epochs=8")
    result = run.train()
    assert result.accuracy >= 0.9
    assert result.accuracy == events(run.run)[-1]["test_accuracy"]
    accuracies = [event["accuracy"] for event in events(run.run, "train")]
    assert accuracies[-1] > accuracies[0]


@pytest.mark.parametrize(("case", "preset"), ROUTERS)
def test_every_kind_of_router_fine_tunes_and_resumes(
    case: str, preset: str, data_dir: Path, tmp_path: Path, finetune: Make
) -> None:
    """A stopped run goes on as one that never stopped, bit for bit."""
    train = {"steps": 2, "validate_every": 2, "probe_every": 0, "checkpoint_every": 0}
    start = pretrain(data_dir, RunDir(tmp_path / "start"), **sections(case, train=train))
    changes = [
        f"similarity.preset={preset}",
        "finetune.epochs=2",
        "train.checkpoint_every=5",
        "train.log_every=4",
        "train.micro_batches=2",
        "model.dropout=0.1",
    ]
    if preset != "none":
        changes += ["similarity.min_tokens=4", "similarity.tokens=16", "similarity.check_every=0"]
    whole = finetune(*changes, name="whole", start=start)
    whole.train()
    stopped = finetune(*changes, name="stopped", start=start)
    stopped.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 7 else None
    with pytest.raises(Stopped):
        stopped.train()
    folder = checkpoint.find(stopped.run, "7")
    resumed = finetune(*changes, name="stopped", start=start, resume_from=folder)
    resumed.train()
    assert_same_run(resumed.run, whole.run, "checkpoint")


def test_micro_batches_add_up_to_the_batch(finetune: Make) -> None:
    """Also the last batch of an epoch, which is smaller; the balance loss left out."""
    found = []
    for number in (1, 4):
        run = finetune(
            f"train.micro_batches={number}", "moe.balance_weight=0.0", "train.eps=1e-3",
            name=f"run-{number}",
        )  # fmt: skip
        for _ in range(6):
            run.step()
        window = run.stepper.window.sums
        found.append((dict(run.model.named_parameters()), window["task"], window["accuracy"]))
    for name, value in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], value, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=0)
    torch.testing.assert_close(found[1][2], found[0][2])


@pytest.mark.parametrize("preset", ["none", "published", "calibrated"])
def test_a_step_does_not_wait_on_the_device(finetune: Make, preset: str) -> None:
    run = finetune(f"similarity.preset={preset}", "train.micro_batches=2")
    run.step()
    with NoWaiting():
        run.step()


def test_the_best_epoch_is_the_most_accurate(finetune: Make) -> None:
    """The first of equals; its weights are what is tested."""
    run = finetune("finetune.epochs=6")
    result = run.train()
    accuracies = [e["accuracy"] for e in events(run.run, "eval") if e["split"] == "valid"]
    best = 1 + accuracies.index(max(accuracies))
    finished = events(run.run)[-1]
    assert finished["best_step"] == best * 6
    state = checkpoint.read_state(run.run.best)
    assert state["accuracy"] == max(accuracies)
    assert result.accuracy == finished["test_accuracy"]


def test_the_documented_events(finetune: Make) -> None:
    run = finetune("finetune.epochs=2", "train.log_every=3", "train.block=4")
    run.train()
    written = events(run.run)
    assert [(event["kind"], event["step"]) for event in written] == [
        ("run_started", 0), ("warning", 0), ("warning", 0), ("warning", 0),
        ("router", 0), ("similarity", 0),
        ("train", 3), ("train", 6), ("eval", 6), ("router", 6), ("similarity", 6),
        ("checkpoint", 6),
        ("train", 9), ("train", 12), ("eval", 12), ("router", 12), ("similarity", 12),
        ("checkpoint", 12), ("eval", 12), ("run_finished", 12),
    ]  # fmt: skip
    started = written[0]
    assert (started["task"], started["steps_per_epoch"], started["total_steps"]) == (
        "letters", 6, 12,
    )  # fmt: skip
    assert started["labels"] == ["down", "even", "up"]
    assert started["unit"] == "text"
    assert [event["split"] for event in events(run.run, "eval")] == ["valid", "valid", "test"]
    for event in events(run.run, "eval"):
        assert 0 <= event["accuracy"] <= 1
        assert event["bpc"] is None
        assert event["examples"] == (18 if event["split"] == "test" else 12)
    messages = [event["message"] for event in events(run.run, "warning")]
    assert all("texts are longer than 4 tokens, and their start was kept" in m for m in messages)
    lengths = run.objective.batches.split.lengths  # type: ignore[attr-defined]
    assert lengths.max() == 4
    assert [event["tokens"] for event in events(run.run, "train")][1::2] == [
        lengths.sum(), 2 * lengths.sum(),
    ]  # fmt: skip
    for event in events(run.run, "similarity"):
        assert 1 <= event["tokens"] <= 64
    for event in events(run.run, "router"):
        assert all(sum(layer["load"]) == pytest.approx(1) for layer in event["layers"])


def test_tokens_are_those_of_the_batches_read(finetune: Make) -> None:
    batches = finetune().objective.batches  # type: ignore[attr-defined]
    assert isinstance(batches, TaskBatches)
    read = 0
    for step in range(14):
        assert batches.tokens_read(step) == read
        read += int(batches.read(step).mask.sum())


def test_probes_see_no_padding(finetune: Make) -> None:
    """The same numbers from texts padded further, with another token."""
    run = finetune()
    run.step()
    ids_BM, real_T = run.objective.probe_batch()
    assert real_T is not None
    assert 0 < len(real_T) < ids_BM.numel()
    more = 5
    padded_BM = F.pad(ids_BM, (0, more), value=3)
    row_T = real_T // ids_BM.shape[1]
    found = [
        probe(run.model, batch_BM, StepContext(step=1, total_steps=9, real_T=places_T), "fp32")
        for batch_BM, places_T in ((ids_BM, real_T), (padded_BM, real_T + more * row_T))
    ]
    ours, theirs = found
    for layer, other in zip(
        [*ours.router, *ours.similarity], [*theirs.router, *theirs.similarity], strict=True
    ):
        for name, value in layer.items():
            np.testing.assert_allclose(other[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(ours.cka, theirs.cka, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(ours.shared, theirs.shared)
    assert ours.tokens == theirs.tokens == len(real_T)


def test_fewer_examples(finetune: Make) -> None:
    run = finetune("finetune.examples=10", "finetune.epochs=3")
    assert run.settings.steps == 3 * 2
    seen: set[int] = set()
    batches = run.objective.batches  # type: ignore[attr-defined]
    for step in range(2):
        seen |= set(batches.read(step).index.tolist())
    assert seen == set(range(10))
    everything = list(range(42))
    drawn = some(everything, 10, seed=3)  # type: ignore[type-var]
    assert len(set(drawn)) == 10
    assert drawn == sorted(drawn)
    assert drawn == some(everything, 10, seed=3)  # type: ignore[type-var]
    assert drawn != some(everything, 10, seed=4)  # type: ignore[type-var]


# What is planned


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
    assert f"router {router} starts fresh in the place of xmoe" in made.warnings
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


def test_another_task_under_the_same_name_is_not_resumed(
    finetune: Make, data_dir: Path, tmp_path: Path
) -> None:
    run = finetune("finetune.epochs=1")
    run.train()
    state = checkpoint.read_state(checkpoint.find(run.run, "last"))
    run.objective.require_same(state)
    state["task"]["fingerprint"] = "other"
    with pytest.raises(UserError, match="not the one this run was trained on") as caught:
        run.objective.require_same(state)
    assert caught.value.code == EXIT_DATA


def test_seeds_decide_everything(finetune: Make) -> None:
    logged = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        run = finetune(f"train.seed={seed}", "finetune.epochs=1", "model.dropout=0.1", name=name)
        run.train()
        logged.append([without_times(event) for event in events(run.run, "train")])
    assert logged[0] == logged[1]
    assert logged[0] != logged[2]


def test_a_word_model_fine_tunes(data_dir: Path, tmp_path: Path) -> None:
    """Unknown words are counted and said."""
    words = {"corpus": "words", "tokenizer": "words"}
    start = pretrain(data_dir, RunDir(tmp_path / "start"), data=words)
    objective = objective_of(planned(start, data_dir))
    assert any("became <unk>" in message for message in objective.warnings)
    trainer = Trainer(objective, RunDir(tmp_path / "run"))
    trainer.step()
    assert np.isfinite(trainer.stepper.window.sums["task"].item())
